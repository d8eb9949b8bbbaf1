// Looks into the stores of a simulated cluster: holds pins and leases of its own, and checks that they are kept, and
// that every figure is the sum of what is there.
//
// Rules   A block under a pin or a lease is never evicted, and its bytes never change, whatever happens meanwhile (but
//         one whose bits were flipped at rest, or that a worker erased). Bytes used are those of the listed blocks and
//         of what is pinned; used and reserved bytes are at most the capacity. At rest nothing is pinned, leased or
//         reserved, and used bytes are exactly those of the blocks.
// Faults  Scheduler::Fail, with a sentence.
// Threads of one fiber, the one that starts and crashes nodes.
#ifndef KVIST_TESTS_SIMULATION_AUDITOR_H_
#define KVIST_TESTS_SIMULATION_AUDITOR_H_

#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "cachestore/block_store.h"
#include "tests/simulation/journal.h"
#include "tests/simulation/sim_node.h"

namespace kvist::simulation {

class Auditor {
 public:
  // `exact`: no fiber gives way within a call to a store, so that two figures are of one moment.
  Auditor(Scheduler* scheduler, const Journal* journal, bool exact)
      : scheduler_(scheduler), journal_(journal), exact_(exact) {}

  // Checks what is held and the node's figures, and takes a pin or a lease now and then.
  void Look(SimNode& node);
  void LetGo() { held_.clear(); }

  // Why the node is not at rest; "" = it is.
  std::string Unrest(SimNode& node);

  uint64_t checks() const { return checks_; }  // of held blocks

 private:
  struct Block {
    Key key;
    BlockRef pin;  // empty under a lease
    std::vector<uint8_t> bytes;
  };
  struct Held {
    SimNode* node;
    uint64_t life;
    absl::Time until;  // by the node's clock
    std::vector<Block> blocks;
  };

  void Check(const Held& held);
  void CheckFigures(SimNode& node);
  void Pin(SimNode& node);
  void Lease(SimNode& node);
  uint64_t ListedBytes(SimNode& node, uint64_t* blocks);
  [[noreturn]] void Fail(const SimNode& node, const std::string& what);

  Scheduler* const scheduler_;
  const Journal* const journal_;
  const bool exact_;
  std::list<Held> held_;
  uint64_t checks_ = 0;
};

}  // namespace kvist::simulation

#endif  // KVIST_TESTS_SIMULATION_AUDITOR_H_
