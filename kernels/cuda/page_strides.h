// Page layouts as numbers: where K and V start and how far apart pages, tokens and heads are.
//
// Units   elements of 16 bits; element (kv, page, token, head, i) is at first[kv] + page * page_stride +
//         token * token_stride + head * head_stride + i.
// Threads pure functions.
#ifndef KVIST_KERNELS_CUDA_PAGE_STRIDES_H_
#define KVIST_KERNELS_CUDA_PAGE_STRIDES_H_

#include "absl/status/statusor.h"
#include "kernels/cuda/decode.h"

namespace kvist::cuda {

struct PageStrides {
  uint64_t first[2];
  uint64_t page, token, head;
};

inline constexpr uint32_t kLatentRow = 576, kLatentChannels = 512;

// How a block of `shape` lies in pages of this layout.
// Errors: InvalidArgument  a count of 0, or heads or head_dim that differ from the block's
//         Unimplemented    an unknown order; another dtype than the block's; a shape that kMlaLatent does not take
absl::StatusOr<PageStrides> StridesFor(const PageLayout& layout, const BlockShape& shape, Codec codec);

// Tokens of engine positions that the block covers, and where V's first one is: the block's own, except for the
// position channels of a latent.
struct TokenSpan {
  uint32_t covered, value_first;
};
TokenSpan TokensOf(const PageLayout& layout, const BlockShape& shape);

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_PAGE_STRIDES_H_
