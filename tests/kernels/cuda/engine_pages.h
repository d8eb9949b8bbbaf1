// An engine's tensors of pages in emulated device memory, indexed by their shapes and not by the planner's strides.
#ifndef KVIST_TESTS_KERNELS_CUDA_ENGINE_PAGES_H_
#define KVIST_TESTS_KERNELS_CUDA_ENGINE_PAGES_H_

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"
#include "tests/kernels/cuda/run_decode.h"

namespace kvist::cuda {

inline constexpr uint16_t kUntouched = 0x5a5a;

class EnginePages {
 public:
  EnginePages(const PageLayout& layout, uint32_t layers) : layout_(layout), expected_(layers) {
    for (std::vector<uint16_t>& tensor : expected_) {
      tensor.assign(Elements(), kUntouched);
      memory_.emplace_back(Elements() * 2);
      std::copy(tensor.begin(), tensor.end(), reinterpret_cast<uint16_t*>(memory_.back().data()));
      addresses_.push_back(reinterpret_cast<uint16_t*>(memory_.back().data()));
    }
  }

  const PageLayout& layout() const { return layout_; }
  absl::Span<uint16_t* const> addresses() const { return addresses_; }

  // Where element `d` of a head's K or V is; latents: d of the block's own head_dim.
  size_t IndexOf(size_t kv, size_t page, size_t token, size_t head, size_t d, size_t head_dim) const {
    const size_t n = layout_.page_tokens, h = layout_.heads, dim = layout_.head_dim;
    switch (layout_.order) {
      case PageOrder::kPackedHnd:
        return ((page * h + head) * n + token) * 2 * dim + kv * dim + d;
      case PageOrder::kPackedNhd:
        return ((page * n + token) * h + head) * 2 * dim + kv * dim + d;
      case PageOrder::kKeyValueFirst:
        return (((kv * layout_.pages + page) * n + token) * h + head) * dim + d;
      case PageOrder::kMlaLatent:
        return (page * n + token) * 576 + (head_dim == 64 ? 512 + d : kv * 256 + d);
    }
    return 0;
  }

  // Puts what the reference decodes where this request's values belong.
  void Expect(const BlockView& view, const DecodeRequest& request) {
    const BlockShape& shape = view.shape();
    std::vector<uint16_t> values(shape.Elements());
    const Pages plain = ContiguousPages(values.data(), shape, shape.tokens);
    ASSERT_EQ(reference::Decode(view, request.layers, request.precision, request.basis, plain).ToString(), "OK");
    const bool positions = layout_.order == PageOrder::kMlaLatent && shape.head_dim == 64;
    for (uint32_t layer = request.layers.first; layer < request.layers.last; ++layer) {
      for (size_t kv = 0; kv < 2; ++kv) {
        for (size_t head = 0; head < layout_.heads; ++head) {
          for (size_t t = 0; t < shape.tokens; ++t) {
            const size_t engine_token = request.first_page_token + t + (positions && kv == 1 ? shape.tokens : 0);
            const size_t page = request.block_table[engine_token / layout_.page_tokens];
            const uint16_t* row = plain.Row(kv, layer, request.first_head + head, t);
            for (size_t d = 0; d < shape.head_dim; ++d) {
              const size_t at = IndexOf(kv, page, engine_token % layout_.page_tokens, head, d, shape.head_dim);
              expected_[layer - request.layers.first][at] = row[d];
            }
          }
        }
      }
    }
  }

  // Elements of all tensors that are not as expected; untouched ones included.
  size_t Different() const {
    size_t different = 0;
    for (size_t i = 0; i < expected_.size(); ++i) {
      for (size_t j = 0; j < expected_[i].size(); ++j) different += addresses_[i][j] != expected_[i][j];
    }
    return different;
  }

 private:
  size_t Elements() const {
    const size_t row = layout_.order == PageOrder::kMlaLatent ? 576 : 2 * size_t{layout_.heads} * layout_.head_dim;
    return size_t{layout_.pages} * layout_.page_tokens * row;
  }

  PageLayout layout_;
  std::vector<std::vector<uint16_t>> expected_;
  std::vector<DeviceBytes> memory_;
  std::vector<uint16_t*> addresses_;
};

// Distinct pages of `pool` in random order; takes them out of it.
inline std::vector<uint32_t> TakePages(std::vector<uint32_t>& pool, size_t count, std::mt19937_64& random) {
  std::shuffle(pool.begin(), pool.end(), random);
  std::vector<uint32_t> pages(pool.end() - count, pool.end());
  pool.resize(pool.size() - count);
  return pages;
}

inline std::vector<uint32_t> AllPages(uint32_t count) {
  std::vector<uint32_t> pages(count);
  std::iota(pages.begin(), pages.end(), 0);
  return pages;
}

inline absl::Span<const uint8_t> PrefixOf(const std::vector<uint8_t>& block) {
  return absl::MakeConstSpan(block).subspan(0, BlockView::PrefixBytes(block).value());
}

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_ENGINE_PAGES_H_
