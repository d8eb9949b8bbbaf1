#include "kernels/cuda/page_strides.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace kvist::cuda {
namespace {

constexpr uint32_t kLatentHalf = kLatentChannels / 2, kPositionChannels = kLatentRow - kLatentChannels;

bool IsPositions(const PageLayout& layout, const BlockShape& shape) {
  return layout.order == PageOrder::kMlaLatent && shape.head_dim == kPositionChannels;
}

absl::StatusOr<PageStrides> LatentStrides(const PageLayout& layout, const BlockShape& shape, Codec codec) {
  const uint64_t page = uint64_t{layout.page_tokens} * kLatentRow;
  if (shape.heads == 1 && shape.head_dim == kLatentHalf) return PageStrides{{0, kLatentHalf}, page, kLatentRow, 0};
  if (shape.heads == 1 && IsPositions(layout, shape) && codec == Codec::kRaw16) {
    return PageStrides{{kLatentChannels, kLatentChannels}, page, kLatentRow, 0};
  }
  return absl::UnimplementedError(absl::StrCat("latent pages take blocks of one head with head_dim ", kLatentHalf,
                                               " (any codec) or ", kPositionChannels, " (raw16); the block has ",
                                               shape.heads, " heads with head_dim ", shape.head_dim, " as ",
                                               std::string(CodecName(codec))));
}

absl::Status CheckLayout(const PageLayout& layout, const BlockShape& shape) {
  if (uint8_t(layout.order) > uint8_t(PageOrder::kMlaLatent)) {
    return absl::UnimplementedError(absl::StrCat("page order ", int(layout.order), "; known are 0 to 3"));
  }
  if (layout.pages == 0 || layout.page_tokens == 0 || layout.heads == 0) {
    return absl::InvalidArgumentError(absl::StrCat("page layout of ", layout.pages, " pages, ", layout.page_tokens,
                                                   " tokens a page, ", layout.heads, " heads: none may be 0"));
  }
  if (ElementBytes(layout.dtype) != 2) {
    return absl::UnimplementedError(
        absl::StrCat("pages hold ", std::string(DtypeName(layout.dtype)), ": kernels write bf16 and f16"));
  }
  if (layout.dtype != shape.dtype) {
    return absl::UnimplementedError(absl::StrCat("pages hold ", std::string(DtypeName(layout.dtype)), ", the block ",
                                                 std::string(DtypeName(shape.dtype)), ": no kernel converts"));
  }
  if (layout.order == PageOrder::kMlaLatent) {
    if (layout.heads == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("latent pages with ", layout.heads, " heads; they have 1"));
  }
  if (layout.head_dim != shape.head_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("pages have head_dim ", layout.head_dim, ", the block ", shape.head_dim));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PageStrides> StridesFor(const PageLayout& layout, const BlockShape& shape, Codec codec) {
  if (absl::Status status = CheckLayout(layout, shape); !status.ok()) return status;
  if (layout.order == PageOrder::kMlaLatent) return LatentStrides(layout, shape, codec);
  const uint64_t dim = shape.head_dim, heads = layout.heads, tokens = layout.page_tokens, page = heads * tokens * dim;
  if (layout.order == PageOrder::kPackedHnd) return PageStrides{{0, dim}, 2 * page, 2 * dim, tokens * 2 * dim};
  if (layout.order == PageOrder::kPackedNhd) return PageStrides{{0, dim}, 2 * page, heads * 2 * dim, 2 * dim};
  return PageStrides{{0, layout.pages * page}, page, heads * dim, dim};
}

TokenSpan TokensOf(const PageLayout& layout, const BlockShape& shape) {
  if (IsPositions(layout, shape)) return {2 * shape.tokens, shape.tokens};
  return {shape.tokens, 0};
}

}  // namespace kvist::cuda
