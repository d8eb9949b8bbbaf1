#include "services/node/lookup_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <string>

#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

using Labels = std::map<std::string, std::string>;
using CounterFamily = prometheus::Family<prometheus::Counter>;

constexpr std::array<const char*, 2> kOpNames = {"match", "get"};
// Reasons that a node gives; the others are a client's.
constexpr std::array<v1::MissReason, 9> kNodeReasons = {
    v1::MISS_REASON_NEVER_STORED, v1::MISS_REASON_EVICTED,       v1::MISS_REASON_ERASED,
    v1::MISS_REASON_EXPIRED,      v1::MISS_REASON_BEING_WRITTEN, v1::MISS_REASON_IDENTITY_MISMATCH,
    v1::MISS_REASON_CHECKSUM,     v1::MISS_REASON_PRECISION,     v1::MISS_REASON_TIER_LOST};
const prometheus::Histogram::BucketBoundaries kDepthBuckets = {0,  1,   2,   4,   8,    16,   32,
                                                               64, 128, 256, 512, 1024, 2048, 4096};
// Below 10 dB nobody stores, above 60 it is as good as exact; raw16 is beyond all.
const prometheus::Histogram::BucketBoundaries kSqnrBuckets = {5, 10, 12, 14, 16, 18, 20, 22, 25, 30, 35, 40, 50, 60};

size_t CodecIndex(Codec codec) { return static_cast<size_t>(codec) - static_cast<size_t>(Codec::kRaw16); }

CounterFamily& CounterNamed(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}

}  // namespace

void LookupMetrics::Counters::Add(const Amount& amount) {
  blocks->Increment(static_cast<double>(amount.blocks));
  tokens->Increment(static_cast<double>(amount.tokens));
  bytes->Increment(static_cast<double>(amount.bytes));
}

LookupMetrics::LookupMetrics(prometheus::Registry* registry) {
  RegisterLookups(registry);
  RegisterStored(registry);
  depth_ = &prometheus::BuildHistogram()
                .Name("kvist_match_depth_blocks")
                .Help(
                    "Leading hits of a chain that a Match asked this node for: its part of the prompt. Without a "
                    "lease not counted.")
                .Register(*registry)
                .Add({}, kDepthBuckets);
  saved_ = &CounterNamed(
                registry, "kvist_saved_tokens_total",
                "Tokens of blocks sent to readers, which need not compute them; each rank of a model counts its own.")
                .Add({});
}

void LookupMetrics::RegisterLookups(prometheus::Registry* registry) {
  constexpr char kEstimate[] = " A missed block counts as the mean of those stored here since the start.";
  auto& lookup_blocks = CounterNamed(registry, "kvist_lookup_blocks_total",
                                     "Blocks that readers asked for: by Match under a lease, by Get.");
  auto& lookup_tokens =
      CounterNamed(registry, "kvist_lookup_tokens_total", (std::string("Tokens of those.") + kEstimate).c_str());
  auto& lookup_bytes =
      CounterNamed(registry, "kvist_lookup_bytes_total", (std::string("Encoded bytes of those.") + kEstimate).c_str());
  auto& hit_blocks = CounterNamed(registry, "kvist_hit_blocks_total", "Blocks that were asked for and found.");
  auto& hit_tokens = CounterNamed(registry, "kvist_hit_tokens_total", "Tokens of those.");
  auto& hit_bytes = CounterNamed(registry, "kvist_hit_bytes_total", "Encoded bytes of those, whole blocks.");
  auto& missed_blocks = CounterNamed(registry, "kvist_missed_blocks_total",
                                     "Blocks asked for and not delivered. Match counts all behind the first miss "
                                     "under its reason, and none without a lease.");
  auto& missed_tokens =
      CounterNamed(registry, "kvist_missed_tokens_total", (std::string("Tokens of those.") + kEstimate).c_str());
  auto& missed_bytes =
      CounterNamed(registry, "kvist_missed_bytes_total", (std::string("Encoded bytes of those.") + kEstimate).c_str());
  for (size_t op = 0; op < kOps; ++op) {
    const Labels of_op = {{"op", kOpNames[op]}};
    lookups_[op] = {&lookup_blocks.Add(of_op), &lookup_tokens.Add(of_op), &lookup_bytes.Add(of_op)};
    hits_[op] = {&hit_blocks.Add(of_op), &hit_tokens.Add(of_op), &hit_bytes.Add(of_op)};
    for (const v1::MissReason reason : kNodeReasons) {
      const Labels labels = {{"op", kOpNames[op]}, {"reason", MissReasonName(reason)}};
      misses_[op][reason] = {&missed_blocks.Add(labels), &missed_tokens.Add(labels), &missed_bytes.Add(labels)};
    }
  }
}

void LookupMetrics::RegisterStored(prometheus::Registry* registry) {
  auto& blocks = CounterNamed(registry, "kvist_stored_blocks_total",
                              "Blocks that were put here and verified, copies of other nodes included.");
  auto& bytes = CounterNamed(registry, "kvist_stored_bytes_total", "Encoded bytes of those.");
  auto& plain_bytes =
      CounterNamed(registry, "kvist_stored_logical_bytes_total", "Bytes of those before encoding, 16 bits a value.");
  auto& raised = CounterNamed(registry, "kvist_stored_raised_tiles_total",
                              "Tiles of those that were kept at a higher precision than the codec's, for its floor.");
  auto& sqnr = prometheus::BuildHistogram()
                   .Name("kvist_stored_sqnr_decibels")
                   .Help(
                       "SQNR of the worst tile of each of those, as its writer measured it; exact blocks are above "
                       "all bounds.")
                   .Register(*registry);
  for (const Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder, Codec::kTrellis}) {
    const Labels labels = {{"codec", std::string(CodecName(codec))}};
    stored_[CodecIndex(codec)] = {&blocks.Add(labels), &bytes.Add(labels), &plain_bytes.Add(labels),
                                  &raised.Add(labels), &sqnr.Add(labels, kSqnrBuckets)};
  }
}

Amount LookupMetrics::MeanOf(uint64_t blocks) const {
  const uint64_t stored = stored_blocks_.load(std::memory_order_relaxed);
  if (stored == 0) return {.blocks = blocks};
  return {.blocks = blocks,
          .tokens = blocks * stored_tokens_.load(std::memory_order_relaxed) / stored,
          .bytes = blocks * (stored_bytes_.load(std::memory_order_relaxed) / stored)};
}

void LookupMetrics::CountHits(LookupOp op, const Amount& amount) {
  hits_[static_cast<size_t>(op)].Add(amount);
  lookups_[static_cast<size_t>(op)].Add(amount);
}

void LookupMetrics::CountMisses(LookupOp op, v1::MissReason reason, uint64_t blocks) {
  if (blocks == 0) return;
  Counters& counters = misses_[static_cast<size_t>(op)][reason];
  if (counters.blocks == nullptr) return;
  const Amount amount = MeanOf(blocks);
  counters.Add(amount);
  lookups_[static_cast<size_t>(op)].Add(amount);
}

void LookupMetrics::CountDepth(uint64_t blocks) { depth_->Observe(static_cast<double>(blocks)); }
void LookupMetrics::CountSaved(uint64_t tokens) { saved_->Increment(static_cast<double>(tokens)); }

void LookupMetrics::CountStored(const BlockView& block) {
  CodecCounters& counters = stored_[CodecIndex(block.codec())];
  counters.blocks->Increment();
  counters.bytes->Increment(static_cast<double>(block.block_bytes()));
  counters.plain_bytes->Increment(static_cast<double>(block.shape().PlainBytes()));
  counters.raised_tiles->Increment(block.raised_tiles());
  counters.sqnr_db->Observe(block.min_sqnr_db());
  stored_tokens_.fetch_add(block.shape().tokens, std::memory_order_relaxed);
  stored_bytes_.fetch_add(block.block_bytes(), std::memory_order_relaxed);
  stored_blocks_.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace kvist
