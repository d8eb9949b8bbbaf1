// All communicators of this process on one device: how many there may be, and the one thread that watches them.
//
// Threads  every method from any thread; none waits for NCCL, the device or a peer, but the destructor, which aborts what
//          is open and waits for it for `close_limit` at most.
// Errors   FailedPrecondition  a slice of a GPU (MIG), which NCCL does not serve.
//          Unavailable         the device has failed; or too many threads are stuck inside NCCL, which from then on is
//                              trusted with nothing until they return.
//          ResourceExhausted   all places are taken; the one that was idle for longest is being closed: try again.
// Why a cap: each communicator holds device memory for its channels (tens of MiB and more) and threads of NCCL's own.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_COMMUNICATORS_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_COMMUNICATORS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/transport/nccl/communicator.h"

namespace kvist {

struct NcclLimits {
  int max_communicators = 16;
  int max_left_behind = 4;  // threads stuck inside NCCL
  int max_ctas = 4;         // of the GPU, for each communicator
  absl::Duration open_limit = absl::Seconds(10);
  absl::Duration call_limit = absl::Seconds(5);
  absl::Duration close_limit = absl::Seconds(5);
  absl::Duration idle_limit = absl::Minutes(2);  // an idle communicator is closed
  absl::Duration least_idle = absl::Seconds(1);  // before a communicator is closed to make room for another
};

class Communicators {
 public:
  struct Counts {
    uint64_t opened = 0;  // communicators that became ready
    uint64_t closed = 0;  // in order
    uint64_t broken = 0;
    uint64_t closed_idle = 0;  // of `closed` and `broken`: because they were idle
    int live = 0;              // places taken now
    int left_behind = 0;       // threads stuck inside NCCL now
    std::string last_failure;  // why the last one broke
  };
  struct Seat {
    int rank = 0, ranks = 2;
    std::optional<nccl::UniqueId> id;  // absent: make one
    std::function<void(absl::StatusOr<nccl::UniqueId>)> on_id;
  };

  // `device` outlives this.
  Communicators(std::shared_ptr<const NcclLibrary> library, Device* device, NcclLimits limits);
  ~Communicators();

  absl::StatusOr<std::shared_ptr<Communicator>> Open(Seat seat);

  // Called by the watchdog some hundred times a second, and for the last time before RemoveTick returns. It must not wait.
  int AddTick(std::function<void(absl::Time now)> tick);
  void RemoveTick(int id);

  Counts counts() const;
  const NcclLibrary& library() const { return *library_; }
  Device* device() const { return device_; }
  const NcclLimits& limits() const { return limits_; }

 private:
  struct Place {
    std::shared_ptr<Communicator> communicator;
    bool counted = false;  // among `opened`
    bool idle_close = false;
  };
  struct Tick {
    int id;
    std::function<void(absl::Time)> run;
  };

  absl::Status RoomLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int LeftBehindLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Watch();
  bool WatchOnce(absl::Time now);
  bool CountLocked(Place* place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StoppedAndEmpty(absl::Time now) const;

  const std::shared_ptr<const NcclLibrary> library_;
  Device* const device_;
  const NcclLimits limits_;
  const std::shared_ptr<WakeUp> wake_up_ = std::make_shared<WakeUp>();

  mutable std::mutex mutex_;
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  absl::Time stop_by_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::mutex ticks_mutex_;  // held while they run; never taken with mutex_ held
  std::vector<Tick> ticks_ ABSL_GUARDED_BY(ticks_mutex_);
  int next_tick_ ABSL_GUARDED_BY(ticks_mutex_) = 1;
  std::thread watchdog_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_COMMUNICATORS_H_
