// One Put: for each owner a few lanes that reserve, encode, stream and commit block after block. Internal to
// services/worker.
//
// A refusal with a hint is obeyed: the next attempt comes then, jittered, if the retry budget and the deadline allow. Its
// lane holds no turn of the node's until then; the caller's thread has it go on.
// An owner that leaves or is gone has perhaps a successor: its view is asked for, and the block tried there once.
//
// Threads Run is called once, by the caller's thread. Lanes hold the job by shared_ptr, because a lane may end after Run
//         has returned; the door keeps it away from the caller's pages by then.
#ifndef KVIST_SERVICES_WORKER_PUT_JOB_H_
#define KVIST_SERVICES_WORKER_PUT_JOB_H_

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/client_core.h"

namespace kvist {

class PutJob : public std::enable_shared_from_this<PutJob> {
 public:
  PutJob(ClientCore* core, absl::Span<const Key> chain, const ConstPages& pages, absl::Time deadline);

  // `present`: leading blocks of the chain that are known to be stored.
  absl::StatusOr<PutResult> Run(size_t present);

 private:
  // The blocks of one owner, shared by its lanes.
  struct Queue {
    size_t owner;  // position in the view that the job began with
    std::vector<size_t> blocks;
    size_t next = 0;
    std::string owner_failure;  // says that the owner is down or late: the rest fails at once
  };
  // One block on its way. What was encoded is kept over retries.
  struct Upload {
    size_t block;
    LinkedViewRef view;                     // by which it is placed
    std::shared_ptr<NodeLink> node;         // that it goes to
    std::shared_ptr<NodeLink> encoded_for;  // whose slot it is; the block may move on
    Slots::Held slot;                       // of the first node, as long as there is a buffer
    BufferPool::Buffer buffer;
    size_t encoded_bytes = 0;  // 0 = not encoded yet
    bool reserved_before = false;
    bool own_attempt_open = false;  // says the last attempt: an earlier one still holds the block's reservation
    bool moved = false;             // to an owner by a newer view, once
    int attempt = 0;
    absl::Status said;  // by the node, to the attempt before
  };
  // A lane that goes on with this block later.
  struct Resting {
    Queue* queue;
    std::shared_ptr<Upload> upload;
    absl::Time resume;
  };
  enum class Outcome { kStored, kPresent };

  void Await(std::unique_lock<std::mutex>& lock);
  void RunLane(Queue* queue, std::shared_ptr<Upload> upload);
  std::optional<size_t> NextBlock(Queue* queue, std::string* owner_failure);
  OrAgain<absl::StatusOr<Outcome>> PutBlock(Upload* upload);
  void Place(Upload* upload);
  bool MoveToNewOwner(Upload* upload, const absl::Status& status);
  void Describe(const std::shared_ptr<NodeLink>& node);
  absl::StatusOr<Outcome> Try(Upload* upload);
  absl::Status GiveProfile(NodeLink& node);
  absl::StatusOr<std::unique_ptr<PutStream>> Reserve(Upload* upload, size_t size_bytes);
  absl::StatusOr<Outcome> Present(Upload* upload);
  absl::Status Encode(Upload* upload);
  std::optional<absl::Time> RetryTime(const Upload& upload, const absl::Status& status);
  void Settle(Queue* queue, const Upload& upload, const absl::StatusOr<Outcome>& outcome);
  void CountStored(const Upload& upload);

  ClientCore* const core_;
  const LinkedViewRef view_;
  const std::vector<Key> chain_;
  const ConstPages pages_;  // behind door_
  const absl::Time start_, deadline_;
  std::vector<Queue> queues_;  // constant after Run has started, but for what mutex_ guards in them
  Door door_;

  const std::unique_ptr<Condition> changed_;
  std::mutex mutex_;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;  // Run has returned, or is about to
  size_t unsettled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Resting> resting_ ABSL_GUARDED_BY(mutex_);
  absl::Status fault_ ABSL_GUARDED_BY(mutex_);
  PutResult result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_PUT_JOB_H_
