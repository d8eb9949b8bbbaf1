#include "services/node/replication.h"

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cluster/replicator.h"
#include "services/node/block_check.h"
#include "services/node/debug_pages.h"
#include "services/node/log.h"

namespace kvist {
namespace {

constexpr size_t kShownSegments = 32, kShownHex = 8;

BlockReading ReadingOfThisFormat() {
  BlockReading reading;
  reading.verify = [](absl::Span<const uint8_t> bytes, const Key& key, const std::string& namespace_digest) {
    std::string_view cause;
    return CheckBeforeCommit({&bytes, 1}, bytes.size(), key, namespace_digest, &cause);
  };
  reading.namespace_of = [](Pieces pieces) -> absl::StatusOr<std::string> {
    const absl::StatusOr<BlockHead> head = BlockHead::Read(pieces);
    if (!head.ok()) return head.status();
    const auto& digest = head->view().identity().namespace_digest;
    return std::string(digest.begin(), digest.end());
  };
  reading.content_of = [](Pieces pieces) {
    const absl::StatusOr<BlockHead> head = BlockHead::Read(pieces);
    return head.ok() ? head->content() : BlockContent();
  };
  return reading;
}

// The replicator and, once a drain was asked for, the thread that hands over.
class Replication {
 public:
  Replication(const NodeParts& parts, uint64_t capacity_bytes)
      : runtime_(parts.runtime), replicator_(Options(parts, capacity_bytes)) {}
  ~Replication() {
    replicator_.Stop();
    hand_over_ = nullptr;
  }

  Replicator& replicator() { return replicator_; }

  v1::DrainResponse Drain(const v1::DrainRequest& request) {
    std::lock_guard lock(mutex_);
    if (request.start() && hand_over_ == nullptr) {
      const absl::Time deadline = runtime_->Now() + absl::Milliseconds(static_cast<int64_t>(request.deadline_ms()));
      replicator_.PlanHandOver(deadline, request.budget_bytes());
      hand_over_ = runtime_->Start([this] { replicator_.HandOver(); });
    }
    return replicator_.progress();
  }

 private:
  static ReplicatorOptions Options(const NodeParts& parts, uint64_t capacity_bytes) {
    ReplicatorOptions options;
    options.self = parts.self;
    options.store = parts.store;
    options.transport = parts.transport;
    options.runtime = parts.runtime;
    options.view = parts.view;
    if (parts.access != nullptr) {
      options.tenant_name = [access = parts.access](TenantId tenant) { return access->NameOf(tenant); };
    }
    options.reading = ReadingOfThisFormat();
    options.reading.came = [needs_profile = parts.needs_profile](const Key& key, Pieces pieces) {
      const absl::StatusOr<BlockHead> head = BlockHead::Read(pieces);
      const std::string digest = head.ok() ? head->ProfileDigest() : "";
      if (!digest.empty() && needs_profile) needs_profile(key.tenant, digest);
    };
    options.capacity_bytes = capacity_bytes;
    options.damaged = [metrics = parts.metrics](const Key& key, const absl::Status& why) {
      metrics->CountDamaged(FoundBy::kCopy);
      Log(LogLevel::kWarning, "damaged block dropped", {{"key", key.Hex()}, {"why", std::string(why.message())}});
    };
    return options;
  }

  Runtime* const runtime_;
  Replicator replicator_;
  std::mutex mutex_;
  std::unique_ptr<Thread> hand_over_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

namespace {

void AddFigures(const std::shared_ptr<Replication>& replication, Metrics* metrics) {
  const auto add = [&](Metrics::Kind kind, const char* name, const char* help, uint64_t ReplicatorCounters::*count) {
    metrics->AddFigure(kind, name, help, {},
                       [replication, count] { return replication->replicator().counters().*count; });
  };
  const auto total = Metrics::Kind::kCounter;
  add(total, "kvist_copied_blocks_total", "Blocks sent to other nodes as copies.", &ReplicatorCounters::copied_blocks);
  add(total, "kvist_copied_bytes_total", "Bytes of those.", &ReplicatorCounters::copied_bytes);
  add(total, "kvist_copies_failed_total", "Copies and adoptions given up.", &ReplicatorCounters::failed);
  add(total, "kvist_copies_dropped_total", "Copies and adoptions that found the queue full.",
      &ReplicatorCounters::dropped);
  add(total, "kvist_adopted_blocks_total", "Blocks fetched from the segment's previous owner.",
      &ReplicatorCounters::adopted_blocks);
  add(total, "kvist_refetched_blocks_total", "Damaged blocks fetched again from another holder.",
      &ReplicatorCounters::refetched_blocks);
  add(Metrics::Kind::kGauge, "kvist_hot_segments", "Segments of which extra copies stand elsewhere.",
      &ReplicatorCounters::hot_segments);
  const auto lately = [&](const char* name, const char* help, auto Heat::Reading::*figure) {
    metrics->AddFigure(Metrics::Kind::kGauge, name, help, {}, [replication, figure] {
      return static_cast<double>(replication->replicator().ReadLately(0).*figure);
    });
  };
  lately("kvist_read_segments", "Segments that were read here lately; 4096 at most are told apart.",
         &Heat::Reading::segments);
  lately("kvist_hot_read_ratio", "The part of the bytes read here lately that was of hot segments.",
         &Heat::Reading::hot);
  lately("kvist_most_read_ratio", "The part of those bytes that was of the one segment that is read most.",
         &Heat::Reading::most_read);
}

// A key's first bytes tell segments apart, and do not let anybody ask for their blocks.
void AddHotPage(const std::shared_ptr<Replication>& replication, const NodeParts& parts) {
  parts.debug_pages->Add("hot", [replication, access = parts.access] {
    const Heat::Reading lately = replication->replicator().ReadLately(kShownSegments);
    DebugTable table{"Most read segments, of the last seconds",
                     {"key of the first block", "tenant", "bytes/s", "part", "copies at"},
                     {}};
    for (const Heat::Hot& segment : lately.top) {
      std::vector<std::string> nodes;
      for (const NodeId& node : replication->replicator().HotNodes(segment.segment)) nodes.push_back(node.value);
      table.rows.push_back({absl::StrCat(segment.segment.Hex().substr(0, kShownHex), "..."),
                            access != nullptr ? access->NameOf(segment.segment.tenant) : "",
                            absl::StrFormat("%.0f", segment.bytes_per_second),
                            absl::StrFormat("%.1f %%", 100 * segment.bytes_per_second / lately.bytes_per_second),
                            absl::StrJoin(nodes, " ")});
    }
    return table;
  });
}

}  // namespace

Hooks ReplicationHooks(const NodeParts& parts, uint64_t capacity_bytes) {
  const auto replication = std::make_shared<Replication>(parts, capacity_bytes);
  AddFigures(replication, parts.metrics);
  if (parts.debug_pages != nullptr) AddHotPage(replication, parts);
  Hooks hooks;
  hooks.stored = [replication](const Key& key, const BlockTraits& traits, std::string_view namespace_digest,
                               uint32_t replicas) {
    replication->replicator().Stored(key, traits, namespace_digest, replicas);
  };
  hooks.copied = [replication](TenantId tenant, std::string_view namespace_digest, uint32_t replicas) {
    replication->replicator().Copied(tenant, namespace_digest, replicas);
  };
  hooks.read = [replication](const Key& group, uint64_t bytes) { replication->replicator().Read(group, bytes); };
  hooks.hot_nodes = [replication](const Key& group) { return replication->replicator().HotNodes(group); };
  hooks.adopt = [replication](TenantId tenant, const v1::AdoptRequest& request) {
    return replication->replicator().Adopt(tenant, request);
  };
  hooks.drain = [replication](const v1::DrainRequest& request) { return replication->Drain(request); };
  hooks.damaged = [replication](const Key& key, const BlockTraits& traits) {
    replication->replicator().Damaged(key, traits);
  };
  return hooks;
}

}  // namespace kvist
