#include "tests/simulation/world.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cluster/etcd_membership.h"
#include "services/node/local_channel.h"
#include "services/node/node_core.h"
#include "services/node/replication.h"
#include "services/worker/client.h"
#include "tests/chaos/block_values.h"
#include "tests/simulation/sim_etcd.h"
#include "tests/simulation/sim_network.h"

namespace kvist::simulation {
namespace {

constexpr uint64_t kCapacity = 512 << 10;  // about a hundred blocks: stores run full
constexpr size_t kTokens = 16, kMostBlocks = 6;
constexpr absl::Duration kDeadline = absl::Seconds(3), kSlack = absl::Milliseconds(500);
constexpr absl::Duration kCalm = absl::Seconds(60);

class SimNode {
 public:
  SimNode(SimNetwork* network, SimEtcd* etcd, SimHost* host) : network_(network), etcd_(etcd), host_(host) {}

  void Start() {
    process_ = network_->NewProcess(host_);
    EtcdOptions etcd;
    etcd.endpoints = {"etcd:2379"};
    membership_ = NewMembershipOver(etcd_->NewClient(process_, etcd.call_deadline), etcd, host_);
    NodeCoreOptions options;
    options.id.value = host_->name();
    options.capacity_bytes = kCapacity;
    options.prefault = false;
    options.weight = 1;
    options.join_ramp = absl::Seconds(5);
    options.join_window = absl::Seconds(5);
    options.drain_deadline = absl::Seconds(5);
    options.make_hooks = [](const NodeParts& parts) { return ReplicationHooks(parts, kCapacity); };
    auto core = NodeCore::Create(std::move(options), host_, process_->transport(), membership_.get());
    if (!core.ok()) host_->scheduler()->Fail(core.status().ToString());
    core_ = *std::move(core);
    channel_ = NewLocalChannel(core_->handlers(), host_);
    process_->Listen(address(), channel_.get());
    core_->Start({host_->name(), 1}, {host_->name(), 2});
  }
  // As SIGKILL.
  void Crash() {
    process_->Kill();
    core_->Stop();
    process_->Close();
    core_.reset();
    channel_.reset();
    membership_.reset();
  }
  bool up() const { return core_ != nullptr; }
  NodeCore* core() { return core_.get(); }
  SimHost* host() { return host_; }
  std::string address() const { return absl::StrCat(host_->name(), ":1"); }

 private:
  SimNetwork* const network_;
  SimEtcd* const etcd_;
  SimHost* const host_;
  SimProcess* process_ = nullptr;
  std::unique_ptr<Membership> membership_;
  std::unique_ptr<NodeCore> core_;
  std::unique_ptr<Channel> channel_;
};

SchedulerOptions OptionsOf(const WorldOptions& options) {
  SchedulerOptions result;
  result.seed = options.seed;
  result.preempt = options.seed % 4 == 0 ? 0.01 : 0;
  result.spurious = options.seed % 3 == 0 ? 0.05 : 0;
  result.replay = absl::StrCat("bazel run //tests/simulation:simulate -- --first ", options.seed, " --seeds 1");
  return result;
}

class World {
 public:
  explicit World(const WorldOptions& options)
      : options_(options), scheduler_(OptionsOf(options)), network_(&scheduler_) {}

  WorldReport Run() {
    scheduler_.Run([this] { Act(); });
    report_.trace_hash = scheduler_.trace_hash();
    report_.switches = scheduler_.switches();
    return report_;
  }

 private:
  void Act() {
    etcd_ = std::make_unique<SimEtcd>(&network_, scheduler_.AddHost("etcd"));
    for (int i = 0; i < options_.nodes; ++i) {
      const absl::Duration offset = absl::Milliseconds(static_cast<int64_t>(scheduler_.Below(4000)) - 2000);
      SimHost* const host = scheduler_.AddHost(absl::StrCat("n", i), offset, (scheduler_.Uniform() - 0.5) * 1e-3);
      nodes_.push_back(std::make_unique<SimNode>(&network_, etcd_.get(), host));
      nodes_.back()->Start();
    }
    AwaitConvergence("at the start");
    std::vector<std::unique_ptr<Thread>> workers;
    harm_ends_ = scheduler_.now() + absl::Seconds(options_.seconds);
    for (int i = 0; i < options_.workers; ++i) {
      SimHost* const host = scheduler_.AddHost(absl::StrCat("w", i));
      workers.push_back(host->Start([this, host] { Work(host); }));
    }
    while (scheduler_.now() < harm_ends_) {
      scheduler_.Sleep(absl::Milliseconds(200 + scheduler_.Below(3000)));
      Harm();
    }
    workers.clear();
    Calm();
    AwaitConvergence("after calm");
    Reread();
    for (const auto& node : nodes_) node->Crash();
    etcd_->Stop();
    network_.Settle();
    report_.messages = network_.counters().messages;
    report_.lost = network_.counters().lost;
    report_.flips += network_.counters().flips;
  }

  SimNode& AnyNode() { return *nodes_[scheduler_.Below(nodes_.size())]; }
  std::string AnyHost() { return scheduler_.Chance(0.3) ? "etcd" : AnyNode().host()->name(); }
  Link& AnyLink() {
    std::string from = AnyHost(), to = AnyHost();
    if (scheduler_.Chance(0.5)) to = absl::StrCat("w", scheduler_.Below(options_.workers));
    if (scheduler_.Chance(0.5)) std::swap(from, to);
    return network_.LinkOf(from, to);
  }

  void Harm() {
    ++report_.harms;
    switch (scheduler_.Below(10)) {
      case 0: {
        SimNode& node = AnyNode();
        if (node.up() && !node.host()->frozen()) node.Crash();
        break;
      }
      case 1:
        for (const auto& node : nodes_) {
          if (!node->up()) node->Start();
        }
        break;
      case 2: {
        SimNode& node = AnyNode();
        node.host()->frozen() ? node.host()->Thaw() : node.host()->Freeze();
        break;
      }
      case 3: {
        Link& link = AnyLink();
        link.cut = !link.cut;
        link.rejects = scheduler_.Chance(0.5);
        break;
      }
      case 4:
        AnyLink().loss = scheduler_.Chance(0.5) ? 0.2 : 0;
        break;
      case 5: {
        Link& link = AnyLink();
        link.flip = 0.1;
        link.duplicate = 0.1;
        break;
      }
      case 6:
        AnyLink().delay = absl::Milliseconds(scheduler_.Below(400));
        break;
      case 7:
        if (etcd_->stopped()) {
          etcd_->Start(/*wiped=*/scheduler_.Chance(0.3));
        } else if (scheduler_.Chance(0.5)) {
          etcd_->Stop();
        } else {
          etcd_->Compact();
        }
        break;
      case 8:
        FlipResting();
        break;
      case 9:
        network_.ForgetLinks();
        break;
    }
  }

  void FlipResting() {
    SimNode& node = AnyNode();
    if (!node.up()) return;
    for (const Key& key : keys_) {
      if (scheduler_.Chance(0.1) && node.core()->store()->FlipBitsForTest(key, scheduler_.Below(200), 0x10)) {
        ++report_.flips;
      }
    }
  }

  void Calm() {
    network_.ForgetLinks();
    if (etcd_->stopped()) etcd_->Start(/*wiped=*/false);
    for (const auto& node : nodes_) {
      if (node->host()->frozen()) node->host()->Thaw();
      if (!node->up()) node->Start();
    }
  }

  // All nodes are ready, and hold one and the same view of all of them.
  void AwaitConvergence(const char* when) {
    const absl::Time until = scheduler_.now() + kCalm;
    while (!Converged()) {
      if (scheduler_.now() >= until) {
        std::string what = absl::StrCat("no convergence ", when, ":");
        for (const auto& node : nodes_) {
          const NodeStatus status = node->core()->status();
          absl::StrAppend(&what, "\n  ", node->host()->name(), " view ", status.view, " ",
                          status.ready ? "ready" : status.why_not, "; ", status.membership.problem);
        }
        scheduler_.Fail(what);
      }
      scheduler_.Sleep(absl::Milliseconds(100));
    }
  }
  bool Converged() {
    const std::shared_ptr<const View> first = nodes_[0]->core()->view();
    if (first == nullptr || first->nodes.size() != nodes_.size()) return false;
    return std::all_of(nodes_.begin(), nodes_.end(), [&](const std::unique_ptr<SimNode>& node) {
      const std::shared_ptr<const View> view = node->core()->view();
      const NodeStatus status = node->core()->status();
      return status.ready && status.state == NodeState::kServing && view && *view == *first;
    });
  }

  ClientOptions OptionsOfWorker(SimHost* host, SimProcess* process) {
    ClientOptions options;
    options.ns.model = "simulated";
    options.ns.layers = options.ns.heads = 1;
    options.ns.head_dim = 64;
    options.ns.tokens_per_block = kTokens;
    options.codec = Codec::kRaw16;
    options.deadline = kDeadline;
    options.threads = 1;
    options.replicas = static_cast<int>(1 + options_.seed % 3);
    options.runtime = host;
    options.transport = process->transport();
    for (const auto& node : nodes_) options.seeds.push_back(node->address());
    return options;
  }

  // Put, match and read prompts until the harm ends.
  void Work(SimHost* host) {
    SimProcess* const process = network_.NewProcess(host);
    {
      const ClientOptions options = OptionsOfWorker(host, process);
      absl::StatusOr<std::unique_ptr<Client>> client = absl::UnavailableError("");
      while (!client.ok() && scheduler_.now() < harm_ends_) {
        client = Client::Create(options);
        if (absl::IsInvalidArgument(client.status())) scheduler_.Fail(client.status().ToString());
        if (!client.ok()) scheduler_.Sleep(absl::Milliseconds(100));
      }
      while (client.ok() && scheduler_.now() < harm_ends_) {
        const std::vector<Key> chain = ChainOf(**client, scheduler_.Below(60));
        if (Look(client->get(), options, chain) < chain.size()) Put(client->get(), options, chain);
        host->SleepUntil(host->Now() + absl::Milliseconds(scheduler_.Below(200)));
      }
    }
    process->Close();
  }

  // What was put after calm is found, block by block.
  void Reread() {
    SimProcess* const process = network_.NewProcess(scheduler_.world());
    {
      const ClientOptions options = OptionsOfWorker(scheduler_.world(), process);
      absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(options);
      if (!client.ok()) scheduler_.Fail(absl::StrCat("no client after calm: ", client.status().ToString()));
      for (uint64_t prompt = 1000; prompt < 1010; ++prompt) {
        const std::vector<Key> chain = ChainOf(**client, prompt);
        Put(client->get(), options, chain);
        const size_t found = Look(client->get(), options, chain);
        if (found < chain.size()) {
          scheduler_.Fail(absl::StrCat("after calm ", found, " of ", chain.size(), " blocks were read that were put"));
        }
      }
    }
    process->Close();
  }

  static std::vector<Key> ChainOf(const Client& client, uint64_t prompt) {
    std::vector<uint32_t> tokens((1 + prompt % kMostBlocks) * kTokens);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const uint64_t source = i < 2 * kTokens ? prompt % 10 : prompt;  // prompts share their first blocks
      tokens[i] = static_cast<uint32_t>(testing::Mix(source * 1000 + i) % 50000);
    }
    return client.Keys(tokens);
  }

  void Put(Client* client, const ClientOptions& options, const std::vector<Key>& chain) {
    ++report_.puts;
    const BlockShape shape = options.ns.Shape();
    testing::BlockValues values(options.ns, options.codec, options_.seed);
    std::vector<uint16_t> plain(shape.Elements() * chain.size()), block(shape.Elements());
    const size_t plane = kTokens * shape.head_dim;  // of K or of V of a block
    for (size_t i = 0; i < chain.size(); ++i) {
      values.Plain(chain[i], block.data());
      std::copy_n(block.data(), plane, plain.data() + i * plane);
      std::copy_n(block.data() + plane, plane, plain.data() + (chain.size() + i) * plane);
    }
    const absl::Time begin = scheduler_.now();
    const auto put = client->Put(chain, ContiguousPages<const uint16_t>(plain.data(), shape, chain.size() * kTokens));
    Judge("Put", begin, put.status());
    if (keys_.size() < 2000) keys_.insert(keys_.end(), chain.begin(), chain.end());
  }

  // How many leading blocks came, each compared whole.
  size_t Look(Client* client, const ClientOptions& options, const std::vector<Key>& chain) {
    ++report_.reads;
    absl::Time begin = scheduler_.now();
    absl::StatusOr<PrefixMatch> match = client->Match(chain);
    Judge("Match", begin, match.status());
    if (match->leased() && match->lease_expiry() > client_lease_bound()) {
      scheduler_.Fail("a lease was granted beyond its bound");
    }
    if (match->blocks() == 0) {
      ++report_.misses;
      return 0;
    }
    const BlockShape shape = options.ns.Shape();
    std::vector<uint16_t> pages(shape.Elements() * chain.size(), 0xffff);
    begin = scheduler_.now();
    const auto got = client->Get(chain, {0, match->blocks()},
                                 ContiguousPages<uint16_t>(pages.data(), shape, chain.size() * kTokens));
    Judge("Get", begin, got.status());
    if (options_.lying_store && got->blocks > 0) pages[0] ^= 1;
    testing::BlockValues values(options.ns, options.codec, options_.seed);
    const size_t plane = kTokens * shape.head_dim;
    for (size_t i = 0; i < got->blocks; ++i) {
      const std::vector<uint16_t>& expected = values.Expected(chain[i], i);
      ++report_.verified_blocks;
      if (std::equal(expected.begin(), expected.begin() + plane, pages.data() + i * plane) &&
          std::equal(expected.begin() + plane, expected.end(), pages.data() + (chain.size() + i) * plane)) {
        continue;
      }
      ++report_.wrong;
      if (!options_.lying_store) scheduler_.Fail(absl::StrCat("block ", i, " came with wrong values"));
    }
    if (got->blocks < chain.size()) ++report_.misses;
    return got->blocks;
  }

  // The skew of clocks, and what a client may ask for.
  absl::Time client_lease_bound() const { return scheduler_.now() + absl::Seconds(5) + absl::Seconds(3); }

  void Judge(const char* call, absl::Time begin, const absl::Status& status) {
    if (!status.ok()) scheduler_.Fail(absl::StrCat(call, " failed: ", status.ToString()));
    const absl::Duration took = scheduler_.now() - begin;
    if (took > kDeadline + kSlack) scheduler_.Fail(absl::StrCat(call, " took ", absl::FormatDuration(took)));
  }

  const WorldOptions options_;
  Scheduler scheduler_;
  SimNetwork network_;
  std::unique_ptr<SimEtcd> etcd_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::vector<Key> keys_;  // that were put, for bits to be flipped in them
  absl::Time harm_ends_;
  WorldReport report_;
};

}  // namespace

WorldReport RunWorld(const WorldOptions& options) { return World(options).Run(); }

}  // namespace kvist::simulation
