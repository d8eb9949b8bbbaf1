#include "kernels/cuda/page_uses.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/page_strides.h"

namespace kvist::cuda {

void PageUses::Add(size_t request, const BlockShape& shape) {
  const DecodeRequest& added = requests_[request];
  const TokenSpan tokens = TokensOf(layout_, shape);
  uint64_t left = tokens.covered;
  for (size_t i = 0; i < added.block_table.size(); ++i) {
    const uint32_t first = i == 0 ? added.first_page_token : 0;
    const uint32_t last = uint32_t(std::min<uint64_t>(first + left, layout_.page_tokens));
    left -= last - first;
    uses_.push_back({0, added.block_table[i], tokens.value_first > 0, first, last, uint32_t(request)});
  }
}

absl::Status PageUses::Check() {
  if (FindOverlap() == nullptr) return absl::OkStatus();
  TakeTensorsApart();
  const Use* const later = FindOverlap();
  if (later == nullptr) return absl::OkStatus();
  const Use& earlier = later[-1];
  const auto [one, other] = std::minmax(earlier.request, later->request);
  return absl::InvalidArgumentError(absl::StrCat(
      "request ", other, ": page ", later->page, " of the tensor at ", later->tensor, " is written ",
      one == other ? "twice" : absl::StrCat("by request ", one, " too"), ", from token ", later->first, " on"));
}

const PageUses::Use* PageUses::FindOverlap() {
  std::sort(uses_.begin(), uses_.end());
  // Sorted by their first tokens: if any two overlap, two neighbours do.
  for (size_t i = 1; i < uses_.size(); ++i) {
    const Use &a = uses_[i - 1], &b = uses_[i];
    const bool same = std::tie(a.tensor, a.page, a.positions) == std::tie(b.tensor, b.page, b.positions);
    if (same && b.first < a.last) return &b;
  }
  return nullptr;
}

void PageUses::TakeTensorsApart() {
  std::vector<Use> apart;
  for (const Use& use : uses_) {
    for (const uint16_t* tensor : requests_[use.request].layer_pages) {
      apart.push_back(use);
      apart.back().tensor = reinterpret_cast<uintptr_t>(tensor);
    }
  }
  uses_ = std::move(apart);
}

}  // namespace kvist::cuda
