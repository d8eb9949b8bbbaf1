// A network in memory: what the nodes and workers of a simulation say to each other goes through here as messages that
// take time and may be lost, doubled, damaged, or come too late.
//
// Machines  have names; links join any two of them, one a direction, and have faults of their own. A process is one
//           life of a program on a machine: it listens at addresses and calls others. Killed, it is heard of no more.
// Calls     run on fibers of the machine that is called, so a stopped machine answers nothing and a caller that gave up
//           is not noticed: what it asked for is done all the same. Deadlines travel as time-outs, as those of gRPC.
// Loss      a message that is lost is sent again after a while, breaks the connection (Unavailable), or nobody ever
//           hears of it (the caller waits for its deadline). Streams keep their order, and have a window.
// Damage    bits flip in the data of parts, both ways; everything else arrives as it was sent.
// Units     times are the scheduler's; deadlines of calls are the calling machine's.
#ifndef KVIST_TESTS_SIMULATION_SIM_NETWORK_H_
#define KVIST_TESTS_SIMULATION_SIM_NETWORK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/transport/transport.h"
#include "tests/simulation/sim_runtime.h"

namespace kvist::simulation {

// One direction.
struct Link {
  absl::Duration delay = absl::Microseconds(200);
  absl::Duration jitter = absl::Microseconds(300);  // up to so much more
  double loss = 0, duplicate = 0, flip = 0;         // chance of a message; of a request; of a part
  double bytes_per_second = 1e9;
  bool cut = false;
  bool rejects = false;  // cut, and the sender is told at once
  absl::Time busy_until = absl::InfinitePast();
};

struct NetworkCounters {
  uint64_t messages = 0, lost = 0, duplicates = 0, flips = 0, refused = 0, late_answers = 0;
};

class SimNetwork;

class SimProcess {
 public:
  SimHost* host() const { return host_; }
  Transport* transport() const { return transport_.get(); }
  bool dead() const { return dead_; }

  // Calls to `address` lead to `channel`, which outlives the process's last call. Another process may have listened
  // there before; the last one gets the calls.
  void Listen(const std::string& address, Channel* channel);

  // No message leaves or reaches it from now on; calls from it end at once, those to it as the other side's luck wills.
  void Kill();
  // Kill, and wait until no call runs in its channels.
  void Close();

 private:
  friend class SimNetwork;
  friend class Flow;
  SimProcess(SimNetwork* network, SimHost* host);

  SimNetwork* const network_;
  SimHost* const host_;
  std::unique_ptr<Transport> transport_;
  std::map<std::string, Channel*> channels_;
  bool dead_ = false;
  int calls_inside_ = 0;
  Signal left_;
  std::map<uint64_t, class Flow*> flows_;  // from and to it
};

// What one call's two ends share.
class Flow {
 public:
  Flow(SimProcess* from, SimProcess* to);
  ~Flow();
  void Wait(const char* why, absl::Time until) { changed_.Wait(why, until); }
  void Changed() { changed_.NotifyAll(); }
  // What the caller is to be told, if no answer can come any more.
  std::optional<absl::Status> Broken() const;
  void Break(absl::Status why);

  SimProcess* const from;
  SimProcess* const to;
  bool silent = false;  // a killed peer is not heard of; else the connection breaks

 private:
  const uint64_t id_;
  Signal changed_;
  absl::Status broken_;
};

class SimNetwork {
 public:
  explicit SimNetwork(Scheduler* scheduler);
  ~SimNetwork();

  SimProcess* NewProcess(SimHost* host);  // lives as long as the network
  // Of new links, and of all that were not asked for by LinkOf.
  void SetDefault(const Link& link) { default_ = link; }
  Link& LinkOf(const std::string& from, const std::string& to);
  void ForgetLinks() { links_.clear(); }  // all are as the default

  Scheduler* scheduler() const { return scheduler_; }
  const NetworkCounters& counters() const { return counters_; }
  // Waits until no message is under way. REQUIRES: nobody calls any more.
  void Settle();

  // Runs `act` on the machine of `to` and returns what it said, or how that failed. `deadline` is the scheduler's.
  template <typename Result>
  absl::StatusOr<Result> Call(SimProcess* from, SimProcess* to, absl::Time deadline, const char* what,
                              std::function<absl::StatusOr<Result>()> act);

  // --- For the parts of the network (sim_channel.cc, sim_etcd.cc) ---

  // When a message that is sent now arrives; nothing if it never does. May break the flow. `after`: not before that.
  std::optional<absl::Time> Send(Flow* flow, bool to_server, size_t bytes, absl::Time after = absl::InfinitePast());
  SimProcess* Find(const std::string& address) const;  // null: nobody listens
  static Channel* ChannelAt(SimProcess* process, const std::string& address) { return process->channels_.at(address); }
  // Runs `body` on a fiber of `process`, and counts it as a call inside.
  void Serve(SimProcess* process, const char* what, std::function<void()> body);
  // One bit of it, perhaps.
  void Damage(SimProcess* from, SimProcess* to, uint8_t* bytes, size_t size);
  bool Doubles(SimProcess* from, SimProcess* to);
  void CountLateAnswer() { ++counters_.late_answers; }
  static absl::Status Late() { return absl::DeadlineExceededError("no answer came in time"); }

 private:
  friend class SimProcess;
  friend class Flow;

  Scheduler* const scheduler_;
  Link default_;
  std::map<std::pair<std::string, std::string>, Link> links_;
  std::vector<std::unique_ptr<SimProcess>> processes_;
  std::map<std::string, SimProcess*> listeners_;
  uint64_t last_flow_ = 0;
  int under_way_ = 0;
  Signal settled_;
  NetworkCounters counters_;
};

template <typename Result>
absl::StatusOr<Result> SimNetwork::Call(SimProcess* from, SimProcess* to, absl::Time deadline, const char* what,
                                        std::function<absl::StatusOr<Result>()> act) {
  struct Answer {
    explicit Answer(SimProcess* from, SimProcess* to) : flow(from, to) {}
    Flow flow;
    std::optional<absl::StatusOr<Result>> result;
    std::optional<absl::Time> arrives;
    bool left = false;
  };
  const auto answer = std::make_shared<Answer>(from, to);
  constexpr size_t kBytes = 512;
  const auto serve = [this, answer, act](absl::Time arrival, bool answers) {
    if (scheduler_->now() < arrival) scheduler_->Sleep(arrival - scheduler_->now());
    if (answer->flow.to->dead()) return;
    absl::StatusOr<Result> result = act();
    if (!answers) return;
    if (answer->left) CountLateAnswer();
    answer->arrives = Send(&answer->flow, /*to_server=*/false, kBytes);
    if (answer->arrives) answer->result = std::move(result);
    answer->flow.Changed();
  };
  const std::optional<absl::Time> arrival = Send(&answer->flow, /*to_server=*/true, kBytes);
  if (arrival) Serve(to, what, [serve, at = *arrival] { serve(at, true); });
  if (arrival && Doubles(from, to)) {
    const absl::Time again = *arrival + absl::Milliseconds(scheduler_->Below(3000));
    Serve(to, what, [serve, again] { serve(again, false); });
  }
  while (true) {
    const absl::Time now = scheduler_->now();
    if (answer->result && *answer->arrives <= now) return *std::move(answer->result);
    if (const std::optional<absl::Status> broken = answer->flow.Broken()) return *broken;
    if (now >= deadline) {
      answer->left = true;
      return Late();
    }
    answer->flow.Wait(what, answer->result ? std::min(deadline, *answer->arrives) : deadline);
  }
}

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_SIM_NETWORK_H_
