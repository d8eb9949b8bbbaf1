#include "tests/simulation/nemesis.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist::simulation {
namespace {

constexpr uint64_t kFlippedWithin = 4400;  // bytes: any of a block in these runs, and some beyond

}  // namespace

Nemesis::Nemesis(SimNetwork* network, SimEtcd* etcd, const Nodes* nodes, const std::vector<SimHost*>* workers,
                 Journal* journal)
    : network_(network),
      scheduler_(network->scheduler()),
      etcd_(etcd),
      nodes_(nodes),
      workers_(workers),
      journal_(journal) {
  const Kind kinds[] = {
      {&Nemesis::CrashOne, 0.7},       {&Nemesis::RestartAll, 1},
      {&Nemesis::StopOrThaw, 0.6},     {&Nemesis::StopOrThawWorker, 0.3},
      {&Nemesis::DrainOne, 0.5},       {&Nemesis::CutLink, 0.6},
      {&Nemesis::Split, 0.4},          {&Nemesis::LoseMessages, 0.6},
      {&Nemesis::DamageMessages, 0.6}, {&Nemesis::DelayMessages, 0.6},
      {&Nemesis::NarrowLink, 0.4},     {&Nemesis::HarmEtcd, 0.6},
      {&Nemesis::FlipResting, 0.6},    {&Nemesis::HealLinks, 1},
  };
  for (const Kind& kind : kinds) {
    if (scheduler_->Chance(kind.chance)) known_.push_back(kind.act);
  }
}

void Nemesis::Harm() {
  ++harms_;
  (this->*known_[scheduler_->Below(known_.size())])();
}

std::string Nemesis::AnyHost() { return scheduler_->Chance(0.3) ? "etcd" : AnyNode().name(); }

Link& Nemesis::AnyLink() {
  std::string from = AnyHost(), to = AnyHost();
  if (scheduler_->Chance(0.5)) to = (*workers_)[scheduler_->Below(workers_->size())]->name();
  if (scheduler_->Chance(0.5)) std::swap(from, to);
  return network_->LinkOf(from, to);
}

void Nemesis::CrashOne() {
  SimNode& node = AnyNode();
  if (!node.host()->frozen()) node.Crash();
}

void Nemesis::RestartAll() {
  for (const auto& node : *nodes_) {
    if (node->host()->frozen()) continue;
    if (node->up() && node->core()->status().left) node->Crash();
    if (!node->up()) node->Start();
  }
}

void Nemesis::StopOrThaw() {
  SimHost* const host = AnyNode().host();
  host->frozen() ? host->Thaw() : host->Freeze();
}

void Nemesis::StopOrThawWorker() {
  SimHost* const host = (*workers_)[scheduler_->Below(workers_->size())];
  ++stops_of_workers_;
  host->frozen() ? host->Thaw() : host->Freeze();
}

void Nemesis::DrainOne() {
  SimNode& node = AnyNode();
  if (node.up() && !node.host()->frozen()) node.Drain();
}

void Nemesis::CutLink() {
  Link& link = AnyLink();
  link.cut = !link.cut;
  link.rejects = scheduler_->Chance(0.5);
}

// Some nodes, perhaps with etcd, on one side; the others on the other. Workers reach both.
void Nemesis::Split() {
  std::vector<std::string> left, right;
  for (const auto& node : *nodes_) (scheduler_->Chance(0.5) ? left : right).push_back(node->name());
  (scheduler_->Chance(0.5) ? left : right).push_back("etcd");
  for (const std::string& a : left) {
    for (const std::string& b : right) network_->LinkOf(a, b).cut = network_->LinkOf(b, a).cut = true;
  }
}

void Nemesis::LoseMessages() { AnyLink().loss = scheduler_->Chance(0.5) ? 0.2 : 0; }

void Nemesis::DamageMessages() {
  Link& link = AnyLink();
  link.flip = 0.1;
  link.duplicate = 0.1;
}

void Nemesis::DelayMessages() { AnyLink().delay = absl::Milliseconds(scheduler_->Below(400)); }

void Nemesis::NarrowLink() { AnyLink().bytes_per_second = 2e3 * static_cast<double>(1 + scheduler_->Below(50)); }

void Nemesis::HarmEtcd() {
  if (etcd_->stopped()) {
    etcd_->Start(/*wiped=*/scheduler_->Chance(0.3));
  } else if (scheduler_->Chance(0.5)) {
    etcd_->Stop();
  } else {
    etcd_->Compact();
  }
}

void Nemesis::FlipResting() {
  SimNode& node = AnyNode();
  if (!node.up()) return;
  for (const Key& key : journal_->put) {
    if (!scheduler_->Chance(0.1)) continue;
    const auto mask = static_cast<uint8_t>(1u << scheduler_->Below(8));
    if (!node.store()->host().FlipBitsForTest(key, scheduler_->Below(kFlippedWithin), mask)) continue;
    ++journal_->flips;
    journal_->damaged.insert(key);
  }
}

void Nemesis::HealLinks() { network_->ForgetLinks(); }

void Nemesis::ThawWorkers() {
  for (SimHost* const worker : *workers_) {
    if (worker->frozen()) worker->Thaw();
  }
}

void Nemesis::Calm() {
  network_->ForgetLinks();
  if (etcd_->stopped()) etcd_->Start(/*wiped=*/false);
  ThawWorkers();
  for (const auto& node : *nodes_) {
    if (node->host()->frozen()) node->host()->Thaw();
    // One that drains would leave, which is no calm; what it kept is lost, as with any restart.
    if (node->up() && node->core()->status().draining) node->Crash();
    if (!node->up()) node->Start();
  }
}

}  // namespace kvist::simulation
