// One communicator of NCCL's, with a thread and a stream of its own. Every call of NCCL's on it is made by that thread, so
// that a call which hangs keeps nobody else; communicators.h watches the thread, the operations and the clock.
//
// Stages   opening -> ready        the library says that all ranks are there
//          ready -> closing        Close; operations that were submitted before are carried out
//          closing -> closed       finalized and destroyed
//          opening, ready, closing -> broken   Abort; an error that NCCL says; a deadline of an operation, of opening or
//                                              of closing; a failed device; a call that does not return
//          closed and broken are the end. `gone` once no thread is left inside and no memory is held.
// Threads  every method from any thread; none waits for NCCL or the device. Tick from the watchdog alone.
// Failures all operations end at once with the reason (`done`); their memory is let go (`hold`) after ncclCommAbort has
//          returned and the stream has passed it. A thread that is stuck inside a call is given up: the communicator is
//          aborted from another thread, and both count as left behind until they return.
// Not above a Runtime: what hangs is a library, on the machine's clock.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_COMMUNICATOR_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_COMMUNICATOR_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/transport/nccl/nccl_library.h"
#include "services/transport/nccl/operation.h"

namespace kvist {

// Wakes the watchdog; outlives it, for threads that are left behind.
class WakeUp {
 public:
  void Notify();
  void WaitUntil(absl::Time deadline);  // or a notification since the last wait

 private:
  std::mutex mutex_;
  std::condition_variable notified_;
  bool pending_ ABSL_GUARDED_BY(mutex_) = false;
};

struct CommunicatorOptions {
  std::shared_ptr<const NcclLibrary> library;
  Device* device = nullptr;
  std::shared_ptr<WakeUp> wake_up;
  int rank = 0, ranks = 2;
  std::optional<nccl::UniqueId> id;  // absent: this rank makes it
  // Called once with the id that was made, or with why there is none; null if `id` is given.
  std::function<void(absl::StatusOr<nccl::UniqueId>)> on_id;
  int max_ctas = 4;
  absl::Time open_deadline = absl::InfiniteFuture();
  absl::Duration call_limit = absl::Seconds(5);   // inside one call of NCCL's
  absl::Duration close_limit = absl::Seconds(5);  // from Close to closed
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  enum class Stage { kOpening, kReady, kClosing, kClosed, kBroken };

  static std::shared_ptr<Communicator> Start(CommunicatorOptions options, std::unique_ptr<Stream> stream);

  // Before it is ready, operations wait. After Close or a failure, `done` is called at once with the reason.
  void Submit(Operation operation);
  void Close();
  void Abort(absl::Status why);

  Stage stage() const;
  absl::Status error() const;     // why it is broken; OK otherwise
  bool busy() const;              // an operation is queued or under way
  absl::Time idle_since() const;  // of the last operation's end, or of readiness
  bool gone() const;
  int left_behind() const;  // threads inside calls that were given up

  // Ends what is done, late or stuck. True if it wants to be asked again soon.
  bool Tick(absl::Time now);

 private:
  struct Active {
    Operation operation;
    std::unique_ptr<DeviceEvent> event;  // recorded behind it, once it is issued
  };
  enum class Step { kIssue, kAskError, kFinalize, kStop };
  using Reports = std::vector<std::pair<std::function<void(absl::Status)>, absl::Status>>;

  Communicator(CommunicatorOptions options, std::unique_ptr<Stream> stream);

  // On the communicator's thread.
  void Run();
  absl::Status Open();
  absl::StatusOr<nccl::UniqueId> Id();
  Step Next();
  absl::Status Issue();
  int IssueGroup(const Operation& operation);
  absl::Status AskError();
  absl::Status Finalize();
  absl::Status WaitWhileInProgress(const char* what);
  absl::Status Failed(const char* what, int result);
  template <typename Function, typename... Arguments>
  int Call(Function* function, Arguments... arguments);
  bool EnterCall();
  void LeaveCall();
  void AbortOnce();
  void Leave();

  void Break(absl::Status why);
  void BreakLocked(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUpLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndDoneLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CheckTimesLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::shared_ptr<Active>> DrainLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool BusyLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunReports();

  const CommunicatorOptions options_;
  const std::unique_ptr<Stream> stream_;  // of the communicator's thread; of the watchdog's once that has left

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kOpening;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  nccl::Comm* comm_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool abort_begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;  // the thread may not call NCCL any more
  int inside_ ABSL_GUARDED_BY(mutex_) = 0;         // threads that are in Run or in an abort
  absl::Time call_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time close_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time idle_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool id_owed_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::shared_ptr<Active>> queued_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Active> issuing_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Active>> in_flight_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Active>> doomed_ ABSL_GUARDED_BY(mutex_);  // reported; their memory is not free yet
  std::unique_ptr<DeviceEvent> passed_ ABSL_GUARDED_BY(mutex_);          // the stream is past all of them
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  Reports reports_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_COMMUNICATOR_H_
