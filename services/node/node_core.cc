#include "services/node/node_core.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/node/debug_tables.h"
#include "services/node/log.h"
#include "services/node/member.h"
#include "services/node/profile_seeker.h"
#include "services/node/scrubber.h"
#include "services/node/tier_figures.h"
#include "services/runtime/timer.h"
#include "services/version.h"

namespace kvist {
namespace {

constexpr double kGib = uint64_t{1} << 30;
constexpr absl::Duration kTick = absl::Milliseconds(250);  // of leases and sessions
constexpr int kMostDrops = 64;  // calls of DropExpired a tick: about a million blocks a second

class NodeCoreImpl final : public NodeCore {
 public:
  NodeCoreImpl(NodeCoreOptions options, Runtime* runtime, Transport* transport, Membership* membership)
      : options_(std::move(options)), runtime_(runtime), transport_(transport), membership_(membership) {}

  absl::Status Create() {
    if (absl::Status status = CreateStore(); !status.ok()) return status;
    metrics_ = std::make_unique<Metrics>(options_.id.value, kVersion);
    absl::StatusOr<std::unique_ptr<ProfileShelf>> shelf = ProfileShelf::Open(options_.profiles);
    if (!shelf.ok()) return shelf.status();
    shelf_ = *std::move(shelf);
    seeker_ = std::make_unique<ProfileSeeker>(
        ProfileSeeker::Uses{options_.id, shelf_.get(), runtime_, transport_, [this] { return view(); }});
    Hooks hooks;
    if (options_.make_hooks) {
      hooks = options_.make_hooks({options_.id, store_.get(), metrics_.get(), &debug_pages_, runtime_, transport_,
                                   [this] { return view(); }, options_.access,
                                   [this](TenantId tenant, const std::string& digest) {
                                     const std::string name = options_.access ? options_.access->NameOf(tenant) : "";
                                     seeker_->Need({name, digest});
                                   }});
    }
    member_ = std::make_unique<Member>(OptionsOfMember(std::move(hooks.drain)), runtime_, membership_);
    handlers_ = std::make_unique<CacheHandlers>(OptionsOfHandlers(std::move(hooks)));
    AddFigures();
    AddProfileFigures();
    if (options_.access != nullptr) {
      metrics_->SetTenants([this] { return ReadTenants(); });
      debug_pages_.Add("tenants", [this] { return TenantsTable(ReadTenants()); });
    }
    debug_pages_.Add("members", [this] { return MembersTable(view().get(), options_.id); });
    handlers_->AddDebugPages(&debug_pages_);
    AddTierFigures(store_.get(), no_device_.empty() ? "none" : "absent", metrics_.get());
    return absl::OkStatus();
  }

  void Start(const Address& data, const Address& http) override {
    timer_ = std::make_unique<Timer>(runtime_, kTick, [this] {
      for (int i = 0; i < kMostDrops && store_->DropExpired(); ++i) {
      }
      handlers_->Sweep();
    });
    if (options_.scrub_rate > 0) {
      ScrubberOptions scrub;
      scrub.rate = options_.scrub_rate;
      scrub.pause = options_.scrub_pause;
      scrub.verify = [this](const Key& key) {
        handlers_->DropIfDamaged(key, FoundBy::kScrub).IgnoreError();
        metrics_->CountScrubbed();
      };
      scrubber_ = std::make_unique<Scrubber>(std::move(scrub), store_.get(), runtime_);
    }
    started_ = true;
    member_->Start(data, http);
  }

  CacheHandlers* handlers() override { return handlers_.get(); }
  Metrics* metrics() override { return metrics_.get(); }
  DebugPages* debug_pages() override { return &debug_pages_; }
  TieredStore* store() override { return store_.get(); }
  std::shared_ptr<const View> view() const override {
    return membership_ == nullptr ? options_.fixed_view : membership_->view();
  }

  NodeStatus status() const override {
    NodeStatus status;
    const std::shared_ptr<const View> now = view();
    const Node self = member_->self();
    status.view = now == nullptr ? 0 : now->number.value;
    status.state = self.state;
    status.ramp = self.ramp;
    status.draining = member_->draining();
    status.left = member_->left();
    if (membership_ != nullptr) status.membership = membership_->health();
    status.why_not = WhyNotReady(status);
    status.ready = status.why_not.empty();
    status.trouble = no_device_.empty() ? store_->DeviceTrouble() : no_device_;
    return status;
  }

  void DrainAndLeave(absl::Time deadline) override { member_->DrainAndLeave(deadline); }
  void OnLeft(std::function<void()> act) override { member_->OnLeft(std::move(act)); }
  void Stop() override {
    stopped_ = true;
    handlers_->EndSessions();
  }

 private:
  absl::Status CreateStore() {
    HostTierOptions tier;
    tier.capacity_bytes = options_.capacity_bytes;
    tier.clock = runtime_->clock();
    tier.max_lease = options_.max_lease;
    tier.prefault = options_.prefault;
    if (options_.access != nullptr) tier.tenants = options_.access->host_quotas();
    absl::StatusOr<std::unique_ptr<HostTier>> host = HostTier::Create(tier);
    if (!host.ok()) return host.status();
    std::unique_ptr<DeviceTier> device;
    if (options_.make_device_tier) {
      TierRules rules = tier;
      if (options_.access != nullptr) rules.tenants = options_.access->device_quotas();
      absl::StatusOr<std::unique_ptr<DeviceTier>> made = options_.make_device_tier(rules);
      if (made.ok()) {
        device = *std::move(made);
      } else if (absl::IsFailedPrecondition(made.status()) || absl::IsUnavailable(made.status())) {
        no_device_ = absl::StrCat("no device tier, host memory alone: ", made.status().message());
        Log(LogLevel::kWarning, "no device tier", {{"why", std::string(made.status().message())}});
      } else {
        return made.status();
      }
    }
    store_ = std::make_unique<TieredStore>(*std::move(host), std::move(device), MoveRules());
    return absl::OkStatus();
  }

  std::string WhyNotReady(const NodeStatus& status) const {
    if (stopped_) return "the node is stopping";
    if (status.draining) return "the node is draining";
    if (!started_) return "the node is starting";
    if (member_->registered()) return "";
    const std::string problem = member_->problem();
    return absl::StrCat("no member of the cluster yet, and waiting for it: ",
                        problem.empty() ? status.membership.problem : problem);
  }

  MemberOptions OptionsOfMember(decltype(Hooks::drain) hand_over) const {
    MemberOptions member;
    member.self.id = options_.id;
    member.self.weight = options_.weight > 0 ? options_.weight : options_.capacity_bytes / kGib;
    member.self.capacity_bytes = options_.capacity_bytes;
    member.join_ramp = options_.join_ramp;
    member.join_window = options_.join_window;
    member.drain_deadline = options_.drain_deadline;
    member.drain_budget_bytes =
        options_.drain_budget_bytes > 0 ? options_.drain_budget_bytes : options_.capacity_bytes / 2;
    member.hand_over = std::move(hand_over);
    return member;
  }

  CacheHandlersOptions OptionsOfHandlers(Hooks hooks) {
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
    handlers.slow_call = options_.slow_call;
    handlers.view = [this] { return view(); };
    handlers.device_info = options_.device_info;
    handlers.access = options_.access;
    handlers.held = [this](TenantId tenant) { return store_->Held(Tier::kHost, tenant); };
    handlers.profiles = shelf_.get();
    handlers.hooks = std::move(hooks);
    handlers.hooks.needs_profile = [this](const std::string& tenant, const std::string& digest) {
      seeker_->Need({tenant, digest});
    };
    handlers.hooks.drain = [this](const v1::DrainRequest& request) { return member_->Drain(request); };
    handlers.hooks.doubted = [this](const Key& key) { store_->DropDeviceCopy(key); };
    handlers.hooks.taking_blocks = [this] { return !stopped_ && !member_->draining(); };
    return handlers;
  }

  std::vector<TenantReading> ReadTenants() const {
    std::vector<TenantReading> readings;
    for (const TenantInfo& tenant : options_.access->tenants()) {
      TenantReading& reading = readings.emplace_back();
      reading.id = tenant.id;
      reading.name = tenant.name;
      reading.host_bytes = store_->Held(Tier::kHost, tenant.id).bytes;
      reading.device_bytes = store_->Held(Tier::kDevice, tenant.id).bytes;
      reading.host_quota_bytes = tenant.limits.host_bytes;
      reading.device_quota_bytes = tenant.limits.device_bytes;
      reading.share = tenant.limits.share;
      reading.requests = handlers_->requests(tenant.id);
    }
    return readings;
  }

  void AddFigures() {
    const auto gauge = [this](const char* name, const char* help, std::function<double()> read) {
      metrics_->AddFigure(Metrics::Kind::kGauge, name, help, {}, std::move(read));
    };
    gauge("kvist_view", "Number of the view of the cluster; 0 = none.", [this] { return status().view; });
    gauge("kvist_ready", "1 while the node takes requests.", [this] { return status().ready; });
    for (const NodeState state : {NodeState::kServing, NodeState::kJoining, NodeState::kDraining}) {
      metrics_->AddFigure(Metrics::Kind::kGauge, "kvist_state", "1 for the state that the node is in.",
                          {{"state", std::string(NodeStateName(state))}},
                          [this, state] { return member_->self().state == state; });
    }
    gauge("kvist_ramp", "The part of the node's weight that counts.", [this] { return member_->self().ramp; });
    const auto drain = [this](const char* state, uint64_t (v1::DrainResponse::*figure)() const) {
      metrics_->AddFigure(Metrics::Kind::kGauge, "kvist_drain_blocks",
                          "Blocks that a drain has planned to hand over, has sent, and could not send.",
                          {{"state", state}}, [this, figure] { return (member_->drain_progress().*figure)(); });
    };
    drain("planned", &v1::DrainResponse::blocks);
    drain("sent", &v1::DrainResponse::sent_blocks);
    drain("failed", &v1::DrainResponse::failed_blocks);
    gauge("kvist_gets_in_flight", "Get streams under way.", [this] { return handlers_->load().streams(); });
    gauge("kvist_queued_bytes", "Bytes that those have still to send.",
          [this] { return handlers_->load().queued_bytes(); });
    AddViewFigures();
    if (membership_ == nullptr) return;
    gauge("kvist_membership_connected", "1 while the source of the members answers.",
          [this] { return membership_->health().connected; });
    gauge("kvist_membership_registered", "1 while our record stands there.",
          [this] { return membership_->health().registered; });
    metrics_->AddFigure(Metrics::Kind::kCounter, "kvist_registrations_total",
                        "How often the node had to register, the first time included.", {},
                        [this] { return membership_->health().registrations; });
  }

  void AddProfileFigures() {
    const auto figure = [this](Metrics::Kind kind, const char* name, const char* help,
                               std::map<std::string, std::string> labels, uint64_t ProfileShelfFigures::*read) {
      metrics_->AddFigure(kind, name, help, std::move(labels),
                          [this, read] { return static_cast<double>(shelf_->figures().*read); });
    };
    using Figures = ProfileShelfFigures;
    figure(Metrics::Kind::kGauge, "kvist_profiles", "Profiles of calibrated codecs kept.", {}, &Figures::profiles);
    figure(Metrics::Kind::kGauge, "kvist_profile_bytes", "Bytes of those.", {}, &Figures::bytes);
    figure(Metrics::Kind::kGauge, "kvist_profile_capacity_bytes", "Bytes that profiles may take.", {},
           &Figures::capacity_bytes);
    constexpr char kGets[] = "Profiles asked for, by whether they were here.";
    figure(Metrics::Kind::kCounter, "kvist_profile_gets_total", kGets, {{"result", "hit"}}, &Figures::hits);
    figure(Metrics::Kind::kCounter, "kvist_profile_gets_total", kGets, {{"result", "miss"}}, &Figures::misses);
    constexpr char kPuts[] =
        "Profiles that came, kept or refused: wrong, or no room. What was here already is neither.";
    figure(Metrics::Kind::kCounter, "kvist_profile_puts_total", kPuts, {{"result", "kept"}}, &Figures::kept);
    figure(Metrics::Kind::kCounter, "kvist_profile_puts_total", kPuts, {{"result", "refused"}}, &Figures::refused);
    figure(Metrics::Kind::kCounter, "kvist_damaged_profiles_total",
           "Profiles in the folder that were damaged, dropped.", {}, &Figures::damaged);
    metrics_->AddFigure(Metrics::Kind::kCounter, "kvist_profiles_fetched_total",
                        "Profiles fetched from other nodes, for blocks that came without them.", {},
                        [this] { return static_cast<double>(seeker_->found()); });
  }

  void AddViewFigures() {
    for (const NodeState state : {NodeState::kServing, NodeState::kJoining, NodeState::kDraining}) {
      metrics_->AddFigure(
          Metrics::Kind::kGauge, "kvist_members", "Nodes in this node's view, by the state they are in.",
          {{"state", std::string(NodeStateName(state))}}, [this, state] {
            const std::shared_ptr<const View> now = view();
            if (now == nullptr) return 0.0;
            return static_cast<double>(std::count_if(now->nodes.begin(), now->nodes.end(),
                                                     [state](const Node& node) { return node.state == state; }));
          });
    }
    metrics_->AddFigure(Metrics::Kind::kGauge, "kvist_owned_ratio",
                        "The part of all keys that this node's view gives to this node.", {}, [this] {
                          const std::shared_ptr<const View> now = view();
                          double all = 0, ours = 0;
                          if (now == nullptr) return 0.0;
                          for (const Node& node : now->nodes) {
                            all += PlacementWeight(node);
                            if (node.id == options_.id) ours += PlacementWeight(node);
                          }
                          return all > 0 ? ours / all : 0.0;
                        });
  }

  const NodeCoreOptions options_;
  Runtime* const runtime_;
  Transport* const transport_;
  Membership* const membership_;
  std::atomic<bool> started_ = false, stopped_ = false;
  std::string no_device_;  // why, though one was asked for
  // In the order of construction; destroyed in reverse, so that whoever calls goes before what it calls.
  std::unique_ptr<TieredStore> store_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<ProfileShelf> shelf_;
  std::unique_ptr<ProfileSeeker> seeker_;
  DebugPages debug_pages_;
  std::unique_ptr<Member> member_;
  std::unique_ptr<CacheHandlers> handlers_;
  std::unique_ptr<Scrubber> scrubber_;
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
