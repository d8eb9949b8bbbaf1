// What was asked for, found and missed, in blocks, tokens and bytes; and what was stored.
//
// A node knows what a hit stands for: the block's header says it. Of a miss it knows nothing but the key, so a missed
// block counts as the mean of the blocks that writers stored here since the start. Rates are left to whoever reads.
//
// Units   bytes are encoded ones, as stored, where a name does not say "plain".
// Threads any; counting takes no lock.
#ifndef KVIST_SERVICES_NODE_LOOKUP_METRICS_H_
#define KVIST_SERVICES_NODE_LOOKUP_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "kernels/block_format.h"
#include "kvist/v1/cache.pb.h"

namespace prometheus {
class Counter;
class Histogram;
class Registry;
}  // namespace prometheus

namespace kvist {

// Match asks whether blocks are there, Get takes them.
enum class LookupOp : uint8_t { kMatch, kGet };

struct Amount {
  uint64_t blocks = 0, tokens = 0, bytes = 0;
};

class LookupMetrics {
 public:
  explicit LookupMetrics(prometheus::Registry* registry);  // which outlives it

  void CountHits(LookupOp op, const Amount& amount);
  void CountMisses(LookupOp op, v1::MissReason reason, uint64_t blocks);
  // The leading hits of one chain of a Match.
  void CountDepth(uint64_t blocks);
  // A block is sent to a reader who begins at its first layer: nobody computes these tokens again.
  void CountSaved(uint64_t tokens);
  void CountStored(const BlockView& block);

 private:
  static constexpr size_t kOps = 2, kReasons = v1::MissReason_ARRAYSIZE, kCodecs = 6;
  struct Counters {
    prometheus::Counter *blocks, *tokens, *bytes;
    void Add(const Amount& amount);
  };
  struct CodecCounters {
    prometheus::Counter *blocks, *bytes, *plain_bytes, *raised_tiles;
    prometheus::Histogram* sqnr_db;
  };
  void RegisterLookups(prometheus::Registry* registry);
  void RegisterStored(prometheus::Registry* registry);
  Amount MeanOf(uint64_t blocks) const;

  // Constant after construction; the registry owns what they point to.
  std::array<Counters, kOps> lookups_, hits_;
  std::array<std::array<Counters, kReasons>, kOps> misses_{};  // null for reasons that only clients give
  std::array<CodecCounters, kCodecs> stored_;
  prometheus::Histogram* depth_;
  prometheus::Counter* saved_;
  // Of all blocks that writers stored.
  std::atomic<uint64_t> stored_blocks_{0}, stored_tokens_{0}, stored_bytes_{0};
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_LOOKUP_METRICS_H_
