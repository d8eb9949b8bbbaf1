#include "services/node/node_core.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "services/version.h"

namespace kvist {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);  // of leases and sessions

// Calls `act` every `period` until destruction.
class Timer {
 public:
  Timer(Runtime* runtime, absl::Duration period, std::function<void()> act)
      : wake_(runtime->NewCondition()), thread_(runtime->Start([this, runtime, period, act = std::move(act)] {
          std::unique_lock lock(mutex_);
          while (!wake_->WaitUntil(lock, runtime->Now() + period, [this] { return stopped_; })) {
            lock.unlock();
            act();
            lock.lock();
          }
        })) {}
  ~Timer() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_->NotifyAll();
    thread_ = nullptr;
  }

 private:
  std::mutex mutex_;
  bool stopped_ = false;
  const std::unique_ptr<Condition> wake_;
  std::unique_ptr<Thread> thread_;
};

class NodeCoreImpl final : public NodeCore {
 public:
  NodeCoreImpl(NodeCoreOptions options, Runtime* runtime, Transport* transport, Membership* membership)
      : options_(std::move(options)), runtime_(runtime), transport_(transport), membership_(membership) {}
  ~NodeCoreImpl() override { timer_ = nullptr; }

  absl::Status Create() {
    HostTierOptions tier;
    tier.capacity_bytes = options_.capacity_bytes;
    tier.clock = runtime_->clock();
    tier.max_lease = options_.max_lease;
    tier.prefault = options_.prefault;
    absl::StatusOr<std::unique_ptr<HostTier>> store = HostTier::Create(tier);
    if (!store.ok()) return store.status();
    store_ = *std::move(store);
    metrics_ = std::make_unique<Metrics>(store_.get(), options_.id.value, kVersion);
    handlers_ = std::make_unique<CacheHandlers>(HandlersOptions());
    return absl::OkStatus();
  }

  void Start(const Address& data, const Address& http) override {
    timer_ = std::make_unique<Timer>(runtime_, kTick, [this] {
      store_->DropExpired();
      handlers_->Sweep();
    });
    ready_ = true;
  }

  CacheHandlers* handlers() override { return handlers_.get(); }
  Metrics* metrics() override { return metrics_.get(); }
  BlockStore* store() override { return store_.get(); }
  std::shared_ptr<const View> view() const override {
    return membership_ == nullptr ? options_.fixed_view : membership_->view();
  }
  NodeStatus status() const override {
    NodeStatus status;
    status.ready = ready_;
    if (!status.ready) status.why_not = "the node is stopping";
    const std::shared_ptr<const View> now = view();
    status.view = now == nullptr ? 0 : now->number.value;
    return status;
  }
  void DrainAndLeave(absl::Time deadline) override {}
  void OnLeft(std::function<void()> act) override {}
  void Stop() override {
    ready_ = false;
    handlers_->EndSessions();
  }

 private:
  CacheHandlersOptions HandlersOptions() {
    CacheHandlersOptions handlers;
    handlers.store = store_.get();
    handlers.metrics = metrics_.get();
    handlers.runtime = runtime_;
    handlers.identity = {kVersion, options_.id.value};
    handlers.capacity_bytes = options_.capacity_bytes;
    handlers.limits = options_.limits;
    handlers.limits.max_lease = options_.max_lease;
    handlers.limits.max_block_bytes = std::min(handlers.limits.max_block_bytes, options_.capacity_bytes);
    handlers.admission = options_.admission;
    handlers.view = [this] { return view(); };
    if (options_.make_hooks) {
      handlers.hooks = options_.make_hooks(
          {options_.id, store_.get(), metrics_.get(), runtime_, transport_, [this] { return view(); }});
    }
    return handlers;
  }

  const NodeCoreOptions options_;
  Runtime* const runtime_;
  Transport* const transport_;
  Membership* const membership_;
  std::atomic<bool> ready_ = false;
  // In the order of construction; destroyed in reverse, so that whoever calls goes before what it calls.
  std::unique_ptr<HostTier> store_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<CacheHandlers> handlers_;
  std::unique_ptr<Timer> timer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NodeCore>> NodeCore::Create(NodeCoreOptions options, Runtime* runtime,
                                                           Transport* transport, Membership* membership) {
  auto core = std::make_unique<NodeCoreImpl>(std::move(options), runtime, transport, membership);
  if (absl::Status status = core->Create(); !status.ok()) return status;
  return core;
}

}  // namespace kvist
