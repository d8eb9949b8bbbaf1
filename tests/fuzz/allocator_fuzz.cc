// Goal    No order of Take, Shrink and Return makes extents overlap, loses bytes, or refuses what the bound promises.
// Input   The capacity in granules (two bytes), then acts of five bytes.
// Method  Against a map of what is taken: the holes are counted anew from it after every act.
#include <algorithm>
#include <map>
#include <vector>

#include "cachestore/allocator.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate one_extent("a block in one extent"), split("a block in several extents"), refused("a refusal"), shrunk("a shrink"),
    joined("everything came back as one hole");

constexpr uint64_t kGranule = Allocator::kGranularity, kMinExtent = Allocator::kMinExtent;
constexpr int kMostActs = 200;

uint64_t SumBytes(const Extents& extents) {
  uint64_t sum = 0;
  for (const Extent& extent : extents) sum += extent.size_bytes;
  return sum;
}

class Model {
 public:
  explicit Model(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  void Add(const Extents& extents) {
    for (const auto& [offset, size_bytes] : extents) {
      KVIST_HOLDS(size_bytes > 0 && offset % kGranule == 0 && size_bytes % kGranule == 0, offset, " + ", size_bytes);
      KVIST_HOLDS(offset + size_bytes <= capacity_bytes_, "beyond the end: ", offset, " + ", size_bytes);
      const auto next = taken_.lower_bound(offset);
      KVIST_HOLDS(next == taken_.end() || offset + size_bytes <= next->first, "overlap at ", offset);
      KVIST_HOLDS(next == taken_.begin() || std::prev(next)->first + std::prev(next)->second <= offset, "overlap at ",
                  offset);
      taken_.emplace(offset, size_bytes);
    }
  }
  void Remove(const Extents& extents) {
    for (const Extent& extent : extents) taken_.erase(extent.offset);
  }
  Allocator::State Count() const {
    Allocator::State state;
    state.live_extents = taken_.size();
    uint64_t end = 0;
    for (const auto& [offset, size_bytes] : taken_) {
      AddHole(offset - end, &state);
      end = offset + size_bytes;
    }
    AddHole(capacity_bytes_ - end, &state);
    return state;
  }

 private:
  static void AddHole(uint64_t size_bytes, Allocator::State* state) {
    state->holes += size_bytes > 0;
    state->free_bytes += size_bytes;
    if (size_bytes >= kMinExtent) state->usable_bytes += size_bytes;
  }

  const uint64_t capacity_bytes_;
  std::map<uint64_t, uint64_t> taken_;
};

void Compare(const Allocator& allocator, const Model& model) {
  const Allocator::State state = allocator.state(), truth = model.Count();
  KVIST_HOLDS(state.free_bytes == truth.free_bytes, state.free_bytes, " free, in truth ", truth.free_bytes);
  KVIST_HOLDS(state.usable_bytes == truth.usable_bytes, state.usable_bytes, " / ", truth.usable_bytes);
  KVIST_HOLDS(state.holes == truth.holes, state.holes, " holes, in truth ", truth.holes);
  KVIST_HOLDS(state.live_extents == truth.live_extents, state.live_extents, " / ", truth.live_extents);
}

void Take(uint64_t size_bytes, Allocator* allocator, Model* model, std::vector<Extents>* live) {
  const Allocator::State before = model->Count();
  std::optional<Extents> extents = allocator->Take(size_bytes);
  const uint64_t charge = Allocator::RoundUp(size_bytes);
  if (!extents) {
    KVIST_HOLDS(before.usable_bytes < charge, "refused ", charge, " of ", before.usable_bytes, " usable");
    return refused.Pass();
  }
  KVIST_HOLDS(SumBytes(*extents) == charge, SumBytes(*extents), " for ", charge);
  for (size_t i = 0; i + 1 < extents->size(); ++i) KVIST_HOLDS((*extents)[i].size_bytes >= kMinExtent, i);
  model->Add(*extents);
  (extents->size() > 1 ? split : one_extent).Pass();
  live->push_back(*std::move(extents));
}

void Run(fuzz::Input input) {
  const uint64_t capacity_bytes = kGranule * (1 + input.Number(2));
  Allocator allocator(capacity_bytes);
  Model model(capacity_bytes);
  std::vector<Extents> live;
  for (int i = 0; i < kMostActs && input.left() > 0; ++i) {
    const uint8_t act = input.Byte() % 4;
    const uint64_t number = input.Number(act < 2 ? 3 : 4);
    if (act < 2) {
      Take(1 + number % (act == 0 ? 2 * kMinExtent : capacity_bytes + kGranule), &allocator, &model, &live);
    } else if (!live.empty()) {
      Extents& extents = live[number % live.size()];
      model.Remove(extents);
      if (act == 2) {
        allocator.Return(extents);
        std::swap(extents, live.back());
        live.pop_back();
      } else {
        const uint64_t kept = 1 + (number >> 8) % SumBytes(extents);
        allocator.Shrink(extents, kept);
        KVIST_HOLDS(SumBytes(extents) == Allocator::RoundUp(kept), SumBytes(extents), " kept of ", kept);
        model.Add(extents);
        shrunk.Pass();
      }
    }
    Compare(allocator, model);
  }
  for (const Extents& extents : live) allocator.Return(extents);
  const Allocator::State state = allocator.state();
  KVIST_HOLDS(state.holes == 1 && state.free_bytes == capacity_bytes && state.live_extents == 0, state.holes, " holes");
  if (!live.empty()) joined.Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
