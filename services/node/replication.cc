#include "services/node/replication.h"

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "services/cluster/replicator.h"
#include "services/node/block_check.h"

namespace kvist {
namespace {

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
  return reading;
}

// The replicator and, once a drain was asked for, the thread that hands over.
class Replication {
 public:
  Replication(const NodeParts& parts, uint64_t capacity_bytes, absl::Duration drain_deadline,
              uint64_t drain_budget_bytes)
      : runtime_(parts.runtime),
        drain_deadline_(drain_deadline),
        drain_budget_bytes_(drain_budget_bytes),
        replicator_(Options(parts, capacity_bytes)) {}
  ~Replication() {
    replicator_.Stop();
    hand_over_ = nullptr;
  }

  Replicator& replicator() { return replicator_; }

  v1::DrainResponse Drain(const v1::DrainRequest& request) {
    std::lock_guard lock(mutex_);
    if (request.start() && hand_over_ == nullptr) {
      const absl::Duration time =
          request.deadline_ms() == 0 ? drain_deadline_ : absl::Milliseconds(request.deadline_ms());
      const uint64_t budget = request.budget_bytes() == 0 ? drain_budget_bytes_ : request.budget_bytes();
      const absl::Time deadline = runtime_->Now() + time;
      replicator_.PlanHandOver(deadline, budget);
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
    options.reading = ReadingOfThisFormat();
    options.capacity_bytes = capacity_bytes;
    return options;
  }

  Runtime* const runtime_;
  const absl::Duration drain_deadline_;
  const uint64_t drain_budget_bytes_;
  Replicator replicator_;
  std::mutex mutex_;
  std::unique_ptr<Thread> hand_over_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

Hooks ReplicationHooks(const NodeParts& parts, uint64_t capacity_bytes, absl::Duration drain_deadline,
                       uint64_t drain_budget_bytes) {
  const auto replication = std::make_shared<Replication>(parts, capacity_bytes, drain_deadline, drain_budget_bytes);
  Hooks hooks;
  hooks.stored = [replication](const Key& key, const BlockTraits& traits, std::string_view namespace_digest,
                               uint32_t replicas) {
    replication->replicator().Stored(key, traits, namespace_digest, replicas);
  };
  hooks.read = [replication](const Key& group, uint64_t bytes) { replication->replicator().Read(group, bytes); };
  hooks.hot_nodes = [replication](const Key& group) { return replication->replicator().HotNodes(group); };
  hooks.adopt = [replication](const v1::AdoptRequest& request) { return replication->replicator().Adopt(request); };
  hooks.drain = [replication](const v1::DrainRequest& request) { return replication->Drain(request); };
  hooks.damaged = [replication](const Key& key, const BlockTraits& traits) {
    replication->replicator().Damaged(key, traits);
  };
  return hooks;
}

}  // namespace kvist
