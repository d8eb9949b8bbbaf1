#include "tests/simulation/world.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "tests/simulation/auditor.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/nemesis.h"
#include "tests/simulation/sim_etcd.h"
#include "tests/simulation/sim_network.h"
#include "tests/simulation/sim_node.h"
#include "tests/simulation/sim_worker.h"

namespace kvist::simulation {
namespace {

constexpr absl::Duration kCalm = absl::Seconds(60);  // then the cluster is whole
constexpr absl::Duration kRest = absl::Seconds(60);  // then the longest lease is over, too

SchedulerOptions OptionsOf(const WorldOptions& options) {
  SchedulerOptions result;
  result.seed = options.seed;
  result.preempt = options.seed % 4 == 0 ? 0.01 : 0;
  result.spurious = options.seed % 3 == 0 ? 0.05 : 0;
  result.max_time = absl::Seconds(options.seconds) + absl::Minutes(10);
  result.replay = absl::StrCat("bazel run //tests/simulation:simulate -- --first ", options.seed, " --seeds 1");
  return result;
}

class World {
 public:
  explicit World(const WorldOptions& options)
      : options_(options),
        scheduler_(OptionsOf(options)),
        network_(&scheduler_),
        auditor_(&scheduler_, &journal_, /*exact=*/options.seed % 4 != 0) {}

  WorldReport Run() {
    scheduler_.Run([this] { Act(); });
    report_.trace_hash = scheduler_.trace_hash();
    report_.switches = scheduler_.switches();
    return report_;
  }

 private:
  void Act() {
    Build();
    AwaitConvergence("at the start");
    BeHarmed();
    nemesis_->Calm();
    AwaitConvergence("after calm");
    SimWorker reader(&network_, scheduler_.AddHost("reader"), OptionsOfWorker());
    const std::vector<Key> kept = reader.PutAndRead();
    Await("the replicas are not whole after calm", kCalm, [&] { return LackingCopy(kept); });
    if (options_.sabotage == Sabotage::kLeakedPin) LeakAPin();
    Await("a node does not come to rest", kRest, [&] { return Unrest(); });
    for (const auto& node : nodes_) node->Crash();
    etcd_->Stop();
    network_.Settle();
    report_.messages = network_.counters().messages;
    report_.lost = network_.counters().lost;
    report_.flips = network_.counters().flips + journal_.flips;
    report_.harms = nemesis_->harms();
    report_.held = auditor_.checks();
  }

  void Build() {
    etcd_ = std::make_unique<SimEtcd>(&network_, scheduler_.AddHost("etcd"));
    SimNodeOptions node;
    node.capacity_bytes = 256 << (10 + scheduler_.Below(3));  // some fifty blocks and more: stores run full
    node.tight = scheduler_.Chance(0.25);
    replicas_ = 1 + static_cast<int>(scheduler_.Below(3));
    const Codec codecs[] = {Codec::kRaw16, Codec::kI8, Codec::kLadder};
    codec_ = codecs[scheduler_.Below(3)];
    const size_t count = 3 + scheduler_.Below(3);
    for (size_t i = 0; i < count; ++i) {
      const absl::Duration offset = absl::Milliseconds(static_cast<int64_t>(scheduler_.Below(4000)) - 2000);
      SimHost* const host = scheduler_.AddHost(absl::StrCat("n", i), offset, (scheduler_.Uniform() - 0.5) * 1e-3);
      nodes_.push_back(std::make_unique<SimNode>(&network_, etcd_.get(), host, node));
      // The last may come later, when somebody restarts what is down.
      if (i + 1 < count || scheduler_.Chance(0.5)) nodes_.back()->Start();
    }
    const size_t workers = 2 + scheduler_.Below(3);
    for (size_t i = 0; i < workers; ++i) worker_hosts_.push_back(scheduler_.AddHost(absl::StrCat("w", i)));
    nemesis_ = std::make_unique<Nemesis>(&network_, etcd_.get(), &nodes_, &worker_hosts_, &journal_);
  }

  WorkerOptions OptionsOfWorker() {
    WorkerOptions worker;
    worker.salt = options_.seed;
    worker.codec = codec_;
    worker.replicas = replicas_;
    for (const auto& node : nodes_) worker.seeds.push_back(node->address());
    worker.lies_to_itself = options_.sabotage == Sabotage::kWrongValue;
    worker.stops = [this] { return nemesis_->stops_of_workers(); };
    worker.report = &report_;
    worker.journal = &journal_;
    return worker;
  }

  void BeHarmed() {
    std::vector<std::unique_ptr<Thread>> workers;
    const absl::Time until = scheduler_.now() + absl::Seconds(options_.seconds);
    for (SimHost* const host : worker_hosts_) {
      workers.push_back(
          host->Start([this, host, until] { SimWorker(&network_, host, OptionsOfWorker()).Work(until); }));
    }
    while (scheduler_.now() < until) {
      scheduler_.Sleep(absl::Milliseconds(200 + scheduler_.Below(3000)));
      nemesis_->Harm();
      for (const auto& node : nodes_) auditor_.Look(*node);
      if (options_.sabotage == Sabotage::kLostBlocks) LoseBlocks();
    }
    nemesis_->ThawWorkers();
    workers.clear();
    for (const auto& node : nodes_) auditor_.Look(*node);
    auditor_.LetGo();
  }

  // A block that the node has, as somebody who goes behind its back finds it.
  Key Stored(SimNode& node) {
    const auto scan = node.store()->Scan(0, 1);
    return !scan.ok() || scan->blocks.empty() ? Key() : scan->blocks[0].key;
  }
  void LeakAPin() {
    absl::StatusOr<Lookup> found = nodes_[0]->store()->Get(Stored(*nodes_[0]));
    if (found.ok()) leaked_ = std::move(found->block);
  }
  void LoseBlocks() {
    for (const auto& node : nodes_) {
      if (!node->up()) continue;
      const absl::StatusOr<BlockStore::ScanResult> scan = node->store()->Scan(0, 1024);
      if (!scan.ok()) continue;
      for (const ScannedBlock& block : scan->blocks) node->store()->Erase(block.key).IgnoreError();
    }
  }

  // Waits until `lacks` has nothing to say.
  void Await(const char* what, absl::Duration patience, const std::function<std::string()>& lacks) {
    const absl::Time until = scheduler_.now() + patience;
    for (std::string lacking = lacks(); !lacking.empty(); lacking = lacks()) {
      if (scheduler_.now() >= until) scheduler_.Fail(absl::StrCat(what, ": ", lacking));
      scheduler_.Sleep(absl::Milliseconds(100));
    }
  }

  void AwaitConvergence(const char* when) {
    Await(when, kCalm, [this] { return Divergence(); });
  }

  // "" = all nodes that are up are ready, and hold one and the same view of themselves.
  std::string Divergence() {
    std::string what;
    std::shared_ptr<const View> first;
    size_t up = 0;
    bool one = true;
    for (const auto& node : nodes_) {
      if (!node->up()) continue;
      ++up;
      const std::shared_ptr<const View> view = node->core()->view();
      const NodeStatus status = node->core()->status();
      if (first == nullptr) first = view;
      one = one && view != nullptr && *view == *first && status.ready && status.state == NodeState::kServing;
      absl::StrAppend(&what, "\n  ", node->name(), " view ", status.view, " of ",
                      view == nullptr ? 0 : view->nodes.size(), " ", NodeStateName(status.state), " ",
                      status.ready ? "ready" : status.why_not, "; ", status.membership.problem);
    }
    return one && first != nullptr && first->nodes.size() == up ? "" : "the nodes do not agree:" + what;
  }

  // The first of these blocks that a node should have by the view, and lacks though it had room.
  std::string LackingCopy(const std::vector<Key>& keys) {
    const std::shared_ptr<const View> view = nodes_[0]->core()->view();
    for (const Key& key : keys) {
      for (const auto& node : nodes_) {
        const absl::StatusOr<Lookup> here = node->store()->Get(key, /*touch=*/false);
        if (!here.ok() || here->block == nullptr) continue;
        for (const size_t owner : Place(here->traits.group, *view, static_cast<size_t>(replicas_)).owners) {
          SimNode& other = NodeOf(view->nodes[owner].id);
          const absl::StatusOr<Lookup> there = other.store()->Get(key, /*touch=*/false);
          if (there.ok() && (there->block != nullptr || there->miss == MissReason::kEvicted)) continue;
          return absl::StrCat(key.Hex(), " stands on ", node->name(), " and not on ", other.name(), " (",
                              static_cast<int>(there->miss), "), one of ", replicas_, " that should have it");
        }
      }
    }
    return "";
  }

  SimNode& NodeOf(const NodeId& id) {
    return **std::find_if(nodes_.begin(), nodes_.end(), [&](const auto& node) { return node->name() == id.value; });
  }

  std::string Unrest() {
    for (const auto& node : nodes_) {
      if (const std::string what = auditor_.Unrest(*node); !what.empty()) return absl::StrCat(node->name(), ": ", what);
    }
    return "";
  }

  const WorldOptions options_;
  Scheduler scheduler_;
  SimNetwork network_;
  std::unique_ptr<SimEtcd> etcd_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::vector<SimHost*> worker_hosts_;
  int replicas_ = 1;
  Codec codec_ = Codec::kRaw16;
  Journal journal_;
  std::unique_ptr<Nemesis> nemesis_;
  Auditor auditor_;
  BlockRef leaked_;
  WorldReport report_;
};

}  // namespace

void WorldReport::Add(const WorldReport& other) {
  switches += other.switches;
  reads += other.reads;
  verified_blocks += other.verified_blocks;
  misses += other.misses;
  puts += other.puts;
  harms += other.harms;
  messages += other.messages;
  lost += other.lost;
  flips += other.flips;
  held += other.held;
}

WorldReport RunWorld(const WorldOptions& options) { return World(options).Run(); }

}  // namespace kvist::simulation
