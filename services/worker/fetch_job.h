// One Get: a stream per node, each block given to its target on the decoders' pool as soon as it is complete, until the
// run ends. Internal to services/worker.
//
// Where a direct way leads to the first node that is to be asked for a block, it is tried first, for half of the time
// that is left; what it does not bring takes the turns below, that node's Cache.Get first.
//
// A block has candidates: the less loaded of two known holders, then all others that may have it. What one cannot give
// (it is down, lacks the block, or sent bytes that are wrong) is asked of the next, while there is time. So is what a
// node refuses because it is full, within the retry budget; when nobody else is left, it is asked again when it said.
// A stream that is late is hedged: the next candidates are asked for its blocks too, within a budget of its own. The
// first copy that is verified is taken; pages are written once.
//
// Threads Run is called once, by the caller's thread, which also starts streams that had to rest. Streams and decoders
//         hold the job by shared_ptr, because a stream may end after Run has returned; the target keeps them away from
//         the caller's pages by then.
#ifndef KVIST_SERVICES_WORKER_FETCH_JOB_H_
#define KVIST_SERVICES_WORKER_FETCH_JOB_H_

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/block_target.h"
#include "services/worker/client_core.h"
#include "services/worker/direct_way.h"
#include "services/worker/segments.h"

namespace kvist {

class FetchJob : public std::enable_shared_from_this<FetchJob> {
 public:
  // `direct` may be null. REQUIRES: `range` is within `chain`.
  FetchJob(ClientCore* core, absl::Span<const Key> chain, BlockRange range, std::shared_ptr<BlockTarget> target,
           absl::Time deadline, std::shared_ptr<DirectWay> direct = nullptr);

  // Counts nothing but what happened on the way: ClientCore::CountGet takes the result.
  absl::StatusOr<GetResult> Run();

 private:
  class Sink;
  // Blocks asked of one node. What is guarded is guarded by mutex_.
  struct Stream {
    size_t node;
    std::vector<size_t> blocks;  // ascending
    absl::Time deadline;
    absl::Time begins;                            // not before; later than now while it rests
    absl::Time sign_of_life;                      // guarded: its last, or when it begins
    absl::Time looked_at = absl::InfinitePast();  // guarded: when it was late, but could not be hedged
    bool hedged = false;                          // guarded
    bool over = false;                            // guarded
  };
  using Streams = std::vector<std::shared_ptr<Stream>>;
  // Who is asked next, and when.
  struct Turn {
    size_t node;
    absl::Time begins;
  };
  struct Block {
    size_t segment = 0;
    size_t next = 0;  // candidate of the segment to be asked next
    int asked = 0;    // streams that may still bring it
    bool decoding = false, delivered = false;
    std::optional<size_t> spare;  // a node whose copy came while another was being decoded
    std::optional<Turn> told;     // the first moment that a node which was full has named
  };
  struct Reason {
    v1::MissReason miss;
    std::string why;
    bool owners = false;
  };

  void ChooseCandidates();

  // What a direct way is tried for; the other blocks of the range are added to `rest`.
  std::vector<OwnerBlocks> TakeDirect(std::vector<size_t>* rest);
  void StartDirect(std::vector<OwnerBlocks> direct);
  void RunDirect(const OwnerBlocks& direct, absl::Time deadline);
  void SkipDirect(absl::Span<const size_t> blocks);  // they take their turns at nodes

  // Takes the next turn of each block, or ends the run at those that have none. Each stream that this makes is taken
  // from the budget, if there is one: false if that was not enough. Streams to start are added to `streams`.
  bool Ask(absl::Span<const size_t> blocks, Budget* budget, Streams* streams) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Turn> NextTurn(Block& block, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Stream* StreamFor(const Turn& turn, bool has_other, Budget* budget, Streams* streams)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a candidate that was not asked yet would be.
  bool HasOther(const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Start(Streams streams);
  void WaitAndHedge();
  Streams Hedge(absl::Duration late_after, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static absl::Time LateAt(const Stream& stream, absl::Duration late_after) {
    return std::max(stream.sign_of_life, stream.looked_at) + late_after;
  }

  void RunStream(const std::shared_ptr<Stream>& stream);
  absl::Status FetchBatch(const Stream& stream, absl::Span<const size_t> blocks, Sink* sink);
  void Decode(const Stream& stream, size_t block, absl::Span<const uint8_t> bytes);
  void NotTaken(size_t block, v1::MissReason miss, const std::string& why);  // by the target

  bool SignOfLife(Stream& stream, size_t block);  // whether the run may still need the block from this stream
  bool Wanted(size_t block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WantsAny(absl::Span<const size_t> blocks);
  void Over(Stream& stream);
  void Leave(absl::Span<const size_t> blocks);  // the stream will not bring these, and nobody minds
  // The node did not give these; `status` is that of its refusal, if it was one.
  void Failed(size_t node, absl::Span<const size_t> blocks, v1::MissReason miss, const std::string& why,
              const absl::Status& status = absl::OkStatus());
  void NoteReason(size_t node, size_t block, v1::MissReason miss, const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndRun(size_t block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndWithFault(absl::Status fault);
  bool Claim(size_t node, size_t block);  // the right to write its pages
  void Delivered(size_t block, absl::Duration decode_time);
  void Received(uint64_t size_bytes);
  absl::StatusOr<GetResult> Conclude();

  Block& At(size_t block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return blocks_[block - range_.first]; }
  size_t OwnerOf(size_t block) const;

  ClientCore* const core_;
  const LinkedViewRef view_;
  const std::vector<Key> chain_;
  const BlockRange range_;
  const absl::Time start_, deadline_;
  const std::vector<Segment> segments_;
  std::vector<std::vector<size_t>> candidates_;  // by segment; constant after Run has begun
  bool alternatives_ = false;                    // some block has a second candidate; constant likewise
  const std::shared_ptr<BlockTarget> target_;
  const std::shared_ptr<DirectWay> direct_;

  const std::unique_ptr<Condition> changed_;
  std::mutex mutex_;
  std::vector<Block> blocks_ ABSL_GUARDED_BY(mutex_);                    // by block - range_.first
  Streams streams_ ABSL_GUARDED_BY(mutex_);                              // all, if there are alternatives
  Streams resting_ ABSL_GUARDED_BY(mutex_);                              // those that are to begin later
  absl::flat_hash_map<size_t, Reason> reasons_ ABSL_GUARDED_BY(mutex_);  // of blocks that some node did not give
  size_t settled_ ABSL_GUARDED_BY(mutex_);                               // all blocks before it are delivered
  size_t end_ ABSL_GUARDED_BY(mutex_);  // the first block that is known to be missing, or range_.last
  absl::Status fault_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_arrival_ ABSL_GUARDED_BY(mutex_);
  GetResult result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_FETCH_JOB_H_
