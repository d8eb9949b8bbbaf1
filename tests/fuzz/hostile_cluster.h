// Nodes behind Channels that answer as an input says: well, late, never, with any status, with lies, with blocks that
// are damaged or another's. Where the input has ended, they are honest.
//
// What they keep of the contract of transport.h: a call returns by its deadline, a sink's error ends its stream, and
// the place that a sink gives is filled. They never make a whole block of other values under the right name: no reader
// could tell.
//
// Threads fibers of one thread of the system; state is changed between waits only.
#ifndef KVIST_TESTS_FUZZ_HOSTILE_CLUSTER_H_
#define KVIST_TESTS_FUZZ_HOSTILE_CLUSTER_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"
#include "tests/fuzz/fuzz.h"

namespace kvist::fuzz {

inline constexpr size_t kHostileNodes = 4;

class HostileCluster final : public Transport {
 public:
  struct Options {
    size_t nodes = 1;        // of the first view: 1 to kHostileNodes
    uint32_t held = 0;       // by bits: true blocks that every node holds at first
    size_t held_form = 0;    // in which form of TrueForms
    size_t part_bytes = 64;  // of honest parts
    uint8_t down = 0;        // by bits: nodes that refuse every connection
    size_t put_form = 0;     // what Put must send, if its floor is the codec's own
    bool own_floor = true;
  };
  struct Counts {
    uint64_t calls = 0, faults = 0;  // answers that say that the request itself is wrong
    uint64_t answer_bytes = 0;       // of messages and parts
    uint64_t damaged = 0;            // blocks that were sent with other bytes, or not to their end
    uint64_t commits = 0, puts = 0, exists = 0;
  };

  // Both outlive the cluster.
  HostileCluster(Input* answers, Runtime* runtime, const Options& options);
  std::unique_ptr<Channel> Connect(const std::string& address) override;

  View FirstView() const;
  const Counts& counts() const { return counts_; }
  Runtime* runtime() const { return runtime_; }

 private:
  friend class HostileChannel;
  friend class HostilePut;
  using Holds = std::map<size_t, size_t>;  // block -> form

  // What comes before an answer.
  struct Turn {
    absl::Status status;
    bool twisted = false;  // the answer itself is to be wrong
  };
  Turn Answer(absl::Time deadline);
  absl::Status Refuse();
  absl::Status Wait(absl::Duration time, absl::Time deadline);
  v1::View AnyView();

  Input* const answers_;
  Runtime* const runtime_;
  const Options options_;
  std::array<Holds, kHostileNodes> holds_;
  Counts counts_;
  uint64_t last_lease_ = 0;
};

// Whether a status says that the request itself is wrong.
bool SaysFault(const absl::Status& status);

}  // namespace kvist::fuzz

#endif  // KVIST_TESTS_FUZZ_HOSTILE_CLUSTER_H_
