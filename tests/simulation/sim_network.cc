#include "tests/simulation/sim_network.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/simulation/sim_channel.h"

namespace kvist::simulation {
namespace {

constexpr double kSentAgain = 0.5, kBreaks = 0.25;  // of lost messages; the others are never heard of
constexpr double kDiesSilently = 0.3;

}  // namespace

Flow::Flow(SimProcess* from, SimProcess* to)
    : from(from),
      to(to),
      silent(from->network_->scheduler_->Chance(kDiesSilently)),
      id_(++from->network_->last_flow_),
      changed_(from->network_->scheduler_) {
  from->flows_[id_] = this;
  to->flows_[id_] = this;
}

Flow::~Flow() {
  from->flows_.erase(id_);
  to->flows_.erase(id_);
}

std::optional<absl::Status> Flow::Broken() const {
  if (from->dead()) return absl::UnavailableError("this process is dead");
  if (!broken_.ok()) return broken_;
  if (to->dead() && !silent) return absl::UnavailableError("the connection was reset");
  return std::nullopt;
}

void Flow::Break(absl::Status why) {
  broken_ = std::move(why);
  Changed();
}

SimProcess::SimProcess(SimNetwork* network, SimHost* host)
    : network_(network), host_(host), transport_(NewSimTransport(network, this)), left_(network->scheduler_) {}

void SimProcess::Listen(const std::string& address, Channel* channel) {
  channels_[address] = channel;
  network_->listeners_[address] = this;
}

void SimProcess::Kill() {
  dead_ = true;
  for (auto each = network_->listeners_.begin(); each != network_->listeners_.end();) {
    each = each->second == this ? network_->listeners_.erase(each) : std::next(each);
  }
  for (const auto& [id, flow] : flows_) flow->Changed();
}

void SimProcess::Close() {
  Kill();
  while (calls_inside_ > 0) left_.Wait("calls to end", absl::InfiniteFuture());
}

SimNetwork::SimNetwork(Scheduler* scheduler) : scheduler_(scheduler), settled_(scheduler) {}
SimNetwork::~SimNetwork() = default;

SimProcess* SimNetwork::NewProcess(SimHost* host) {
  processes_.emplace_back(new SimProcess(this, host));
  return processes_.back().get();
}

Link& SimNetwork::LinkOf(const std::string& from, const std::string& to) {
  return links_.try_emplace({from, to}, default_).first->second;
}

SimProcess* SimNetwork::Find(const std::string& address) const {
  const auto found = listeners_.find(address);
  return found == listeners_.end() ? nullptr : found->second;
}

std::optional<absl::Time> SimNetwork::Send(Flow* flow, bool to_server, size_t bytes, absl::Time after) {
  SimProcess* const sender = to_server ? flow->from : flow->to;
  SimProcess* const receiver = to_server ? flow->to : flow->from;
  if (sender->dead() || receiver->dead()) return std::nullopt;
  Link& link = LinkOf(sender->host()->name(), receiver->host()->name());
  ++counters_.messages;
  const absl::Time now = scheduler_->now();
  if (link.cut) {
    ++counters_.lost;
    if (link.rejects) flow->Break(absl::UnavailableError("no way to the host"));
    return std::nullopt;
  }
  link.busy_until =
      std::max(link.busy_until, now) + absl::Seconds(static_cast<double>(bytes) / std::max(1.0, link.bytes_per_second));
  absl::Time arrival = link.busy_until + link.delay + link.jitter * scheduler_->Uniform();
  if (link.loss > 0 && scheduler_->Chance(link.loss)) {
    ++counters_.lost;
    const double fate = scheduler_->Uniform();
    if (fate < kSentAgain) {
      arrival += absl::Milliseconds(200 << scheduler_->Below(4));
    } else {
      if (fate < kSentAgain + kBreaks) flow->Break(absl::UnavailableError("the connection broke"));
      return std::nullopt;
    }
  }
  return std::max(arrival, after);
}

void SimNetwork::Serve(SimProcess* process, const char* what, std::function<void()> body) {
  ++process->calls_inside_;
  ++under_way_;
  process->host()->Spawn(what, [this, process, body = std::move(body)]() mutable {
    body();
    body = nullptr;  // what it holds goes while the process may still be waited for
    if (--process->calls_inside_ == 0) process->left_.NotifyAll();
    if (--under_way_ == 0) settled_.NotifyAll();
  });
}

void SimNetwork::Settle() {
  while (under_way_ > 0) settled_.Wait("the network to settle", absl::InfiniteFuture());
}

void SimNetwork::Damage(SimProcess* from, SimProcess* to, uint8_t* bytes, size_t size) {
  const Link& link = LinkOf(from->host()->name(), to->host()->name());
  if (size == 0 || link.flip <= 0 || !scheduler_->Chance(link.flip)) return;
  ++counters_.flips;
  bytes[scheduler_->Below(size)] ^= static_cast<uint8_t>(1u << scheduler_->Below(8));
}

bool SimNetwork::Doubles(SimProcess* from, SimProcess* to) {
  const Link& link = LinkOf(from->host()->name(), to->host()->name());
  if (link.duplicate <= 0 || !scheduler_->Chance(link.duplicate)) return false;
  ++counters_.duplicates;
  return true;
}

}  // namespace kvist::simulation
