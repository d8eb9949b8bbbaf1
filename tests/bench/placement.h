// Measures placement: how much moves when a node joins, and how evenly bytes lie. Pure computation over ring.h; the
// bench prints what these find, and a test holds the same figures to their reach.
//
// Units   blocks stand for bytes: all are of one size. A ratio of 1 is ideal.
// Threads pure.
#ifndef KVIST_TESTS_BENCH_PLACEMENT_H_
#define KVIST_TESTS_BENCH_PLACEMENT_H_

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cluster/view.h"

namespace kvist::bench {

// `nodes` serving nodes of equal weight, named as a StatefulSet names its pods.
View EqualNodes(size_t nodes);

struct Moves {
  size_t segments = 0, moved = 0;
  size_t astray = 0;  // of `moved`: to another node than the one that joined; must be 0
  double ideal = 0;   // segments that the new node's share would be
  double Ratio() const { return static_cast<double>(moved) / ideal; }
};
// The owners of `segments` random segments among nodes - 1 nodes, and after the last one has joined.
Moves MovedByOneJoin(size_t nodes, size_t segments, uint64_t seed);

struct Spread {
  size_t segments = 0;
  uint64_t blocks = 0;            // all nodes together
  std::vector<uint64_t> by_node;  // blocks
  double MaxToMean() const;
};

// Bytes of `segments` segments over equal nodes. They are those of prompts whose lengths are log-uniform from 1 to 512
// blocks (65,536 tokens of default blocks), cut as ring.h cuts them.
Spread SpreadOfPrompts(size_t nodes, size_t segments, uint64_t seed);

// What every node stores, and what it is asked to read, if all requests of a trace run against an empty cluster that
// never evicts. One request a line: {"input_length": tokens, "hash_ids": [one for each 512 tokens]}, equal ids meaning
// equal prefixes; blocks have 128 tokens, and only whole ones are stored.
struct TraceSpread {
  size_t requests = 0;
  Spread stored, read;
};
// Errors: InvalidArgument names the line.
absl::StatusOr<TraceSpread> SpreadOfTrace(size_t nodes, std::istream& trace);

}  // namespace kvist::bench

#endif  // KVIST_TESTS_BENCH_PLACEMENT_H_
