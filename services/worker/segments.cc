#include "services/worker/segments.h"

#include <algorithm>
#include <string>
#include <utility>

#include "services/cluster/ring.h"

namespace kvist {
namespace {

void AddOnce(std::optional<size_t> node, Segment* segment) {
  if (!node || *node == segment->owner) return;
  if (std::find(segment->others.begin(), segment->others.end(), *node) != segment->others.end()) return;
  segment->others.push_back(*node);
}

void FindOthers(const Key& head, const SegmentNodes& nodes, const LinkedView& view, Locations* locations,
                Segment* segment) {
  const std::optional<Location> location = locations->Find(head);
  if (location && !location->found.empty()) AddOnce(view.Position(location->found), segment);
  segment->found = !segment->others.empty();
  AddOnce(nodes.previous, segment);
  segment->asked_first = segment->hot_first = segment->others.size();
  if (location) {
    for (const std::string& hot : location->hot) AddOnce(view.Position(hot), segment);
  }
  segment->hot_last = segment->others.size();
  for (size_t i = 1; i < nodes.owners.size(); ++i) AddOnce(nodes.owners[i], segment);
}

}  // namespace

std::vector<Segment> Segments(absl::Span<const Key> chain, BlockRange range, const LinkedView& view, size_t replicas,
                              Locations* locations) {
  std::vector<Segment> segments;
  for (size_t block = range.first; block < range.last;) {
    Segment segment{block, block, SegmentHead(block), 0, {}};
    while (segment.last < range.last && SegmentHead(segment.last) == segment.head) ++segment.last;
    const Key& head = chain[segment.head];
    const SegmentNodes nodes = Place(head, view.view, replicas);
    segment.owner = nodes.owners.front();
    FindOthers(head, nodes, view, locations, &segment);
    block = segment.last;
    segments.push_back(std::move(segment));
  }
  return segments;
}

}  // namespace kvist
