// The segments of a chain and the nodes that may hold each. Internal to services/worker.
//
// Threads pure, but for what it reads from Locations.
#ifndef KVIST_SERVICES_WORKER_SEGMENTS_H_
#define KVIST_SERVICES_WORKER_SEGMENTS_H_

#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "cachestore/key.h"
#include "services/worker/client.h"
#include "services/worker/locations.h"
#include "services/worker/node_link.h"

namespace kvist {

// Blocks [first, last) of a chain: those of one segment that are within the range that was asked for. Nodes are
// positions in the view.
struct Segment {
  size_t first, last;
  size_t head;  // the segment's first block; may lie before `first`
  size_t owner;
  std::vector<size_t> others;  // where it may be besides, likeliest first: found, previous, hot copies, replicas
  size_t asked_first = 0;      // so many of `others` are worth a question even if the owner answers
  size_t hot_first = 0, hot_last = 0;  // of `others`: hot copies; what follows them are replicas
  bool found = false;                  // others[0] is where Match found the segment
  bool Includes(size_t block) const { return block >= first && block < last; }
};

// In ascending order. REQUIRES: the view has a node; `range` is within `chain`.
std::vector<Segment> Segments(absl::Span<const Key> chain, BlockRange range, const LinkedView& view, size_t replicas,
                              Locations* locations);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_SEGMENTS_H_
