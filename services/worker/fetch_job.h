// One Get: a stream per owner, each block decoded on the pool as soon as it is complete, until the run ends. Internal
// to services/worker.
//
// Threads Run is called once, by the caller's thread. Streams and decoders hold the job by shared_ptr, because a stream
// may
//         end after Run has returned; the door keeps them away from the caller's pages by then.
#ifndef KVIST_SERVICES_WORKER_FETCH_JOB_H_
#define KVIST_SERVICES_WORKER_FETCH_JOB_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/client_core.h"

namespace kvist {

class FetchJob : public std::enable_shared_from_this<FetchJob> {
 public:
  // REQUIRES: `range` is within `chain`.
  FetchJob(ClientCore* core, absl::Span<const Key> chain, BlockRange range, const Pages& pages, absl::Time deadline);

  absl::StatusOr<GetResult> Run();

 private:
  class Sink;

  void FetchFrom(const OwnerBlocks& part);
  absl::Status FetchBatch(size_t owner, absl::Span<const size_t> blocks, Sink* sink);
  void Decode(size_t owner, size_t block, absl::Span<const uint8_t> bytes);

  bool Wanted(size_t block);  // whether the run may still reach it
  void Delivered(size_t block, absl::Duration decode_time);
  void EndRun(size_t block, v1::MissReason reason, size_t owner, const std::string& why);
  void EndWithFault(absl::Status fault);
  void Received(uint64_t size_bytes);
  absl::StatusOr<GetResult> Conclude();

  ClientCore* const core_;
  const LinkedViewRef view_;
  const std::vector<Key> chain_;
  const BlockRange range_;
  const Pages pages_;  // behind door_
  const absl::Time start_, deadline_;
  Door door_;

  const std::unique_ptr<Condition> changed_;
  std::mutex mutex_;
  std::vector<bool> delivered_ ABSL_GUARDED_BY(mutex_);  // by block - range_.first
  size_t settled_ ABSL_GUARDED_BY(mutex_);               // all blocks before it are delivered
  size_t end_ ABSL_GUARDED_BY(mutex_);                   // the first block that is known to be missing, or range_.last
  absl::Status fault_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_arrival_ ABSL_GUARDED_BY(mutex_);
  GetResult result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_FETCH_JOB_H_
