#include "services/worker/candidates.h"

#include <algorithm>

#include "absl/types/span.h"

namespace kvist {
namespace {

// A replica may lack the block still; it is read in place of the owner only if that has this much more to send.
constexpr uint64_t kBusierBytes = 8 << 20;

// Of two at random: enough to spread a load evenly, and no herd runs to the one that was least loaded a moment ago.
size_t LessLoaded(absl::Span<const size_t> holders, const LinkedView& view, Runtime* runtime) {
  const uint64_t random = runtime->Random();
  const size_t first = random % holders.size();
  const size_t second = (first + 1 + (random >> 32) % (holders.size() - 1)) % holders.size();
  const uint64_t busy_first = view.links[holders[first]]->Busy();
  const uint64_t busy_second = view.links[holders[second]]->Busy();
  return holders[busy_second < busy_first ? second : first];
}

}  // namespace

std::vector<size_t> CandidatesOf(const Segment& segment, const LinkedView& view, Runtime* runtime) {
  std::vector<size_t> candidates = {segment.owner};
  if (segment.others.empty()) return candidates;
  if (segment.found) {
    candidates.insert(candidates.begin(), segment.others[0]);
  } else if (segment.hot_first < segment.hot_last) {
    std::vector<size_t> holders = {segment.owner};
    for (size_t i = segment.hot_first; i < segment.hot_last; ++i) holders.push_back(segment.others[i]);
    candidates.insert(candidates.begin(), LessLoaded(holders, view, runtime));
  } else if (segment.hot_last < segment.others.size()) {
    const size_t replica = segment.others[segment.hot_last];
    const uint64_t replicas = view.links[replica]->Busy() + kBusierBytes;
    if (view.links[segment.owner]->Busy() > replicas) candidates.insert(candidates.begin(), replica);
  }
  // Replicas and hot copies before a previous owner: where Match found nothing, that one has nothing either.
  std::vector<size_t> rest(segment.others.begin() + segment.asked_first, segment.others.end());
  rest.insert(rest.end(), segment.others.begin(), segment.others.begin() + segment.asked_first);
  for (const size_t node : rest) candidates.push_back(node);
  std::vector<size_t> once;
  for (const size_t node : candidates) {
    if (std::find(once.begin(), once.end(), node) == once.end()) once.push_back(node);
  }
  return once;
}

}  // namespace kvist
