#include "services/worker/block_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

BlockVerdict Miss(v1::MissReason reason, const absl::Status& status) { return {reason, std::string(status.message())}; }

// A stored block that was demoted ends behind its last plane; one that ends elsewhere has lost bytes on its way.
bool EndsWhereAPlaneEnds(const BlockView& view, uint64_t size_bytes) {
  if (size_bytes == view.block_bytes()) return true;
  const absl::StatusOr<std::vector<ByteRange>> ranges = view.RangesFor(0, view.shape().layers, view.MaxPrecision());
  return ranges.ok() && !ranges->empty() && ranges->back().offset + ranges->back().size_bytes == size_bytes;
}

BlockVerdict CheckPromise(const BlockView& view, const ExpectedBlock& expected) {
  if (view.MaxPrecision() < expected.min_precision) {
    return {v1::MISS_REASON_PRECISION, absl::StrCat("the block has ", view.MaxPrecision(), " bits per code; ",
                                                    expected.min_precision, " were asked for")};
  }
  if (expected.floor_db > 0 && view.min_sqnr_db() < expected.floor_db) {
    return {v1::MISS_REASON_PRECISION, absl::StrCat("the block's worst tile has ", view.min_sqnr_db(), " dB; ",
                                                    expected.floor_db, " were asked for")};
  }
  return {};
}

}  // namespace

BlockVerdict ReadBlock(absl::Span<const uint8_t> bytes, const ExpectedBlock& expected, const Pages& pages) {
  const absl::StatusOr<BlockView> view = BlockView::Parse(bytes);
  if (!view.ok()) {
    const bool unknown_format = view.status().code() == absl::StatusCode::kUnimplemented;
    return Miss(unknown_format ? v1::MISS_REASON_IDENTITY_MISMATCH : v1::MISS_REASON_CHECKSUM, view.status());
  }
  if (std::string mismatch = view->IdentityMismatch(expected.identity, expected.shape); !mismatch.empty()) {
    return {v1::MISS_REASON_IDENTITY_MISMATCH, std::move(mismatch)};
  }
  if (view->PlanesPresent() == 0 || !EndsWhereAPlaneEnds(*view, bytes.size())) {
    return {v1::MISS_REASON_CHECKSUM,
            absl::StrCat("the block is cut off at ", bytes.size(), " of ", view->block_bytes(), " bytes")};
  }
  if (BlockVerdict verdict = CheckPromise(*view, expected); verdict.miss != v1::MISS_REASON_UNSPECIFIED) return verdict;
  const LayerRange all = {0, expected.shape.layers};
  if (absl::Status intact = view->Verify(all.first, all.last, view->MaxPrecision()); !intact.ok()) {
    return Miss(v1::MISS_REASON_CHECKSUM, intact);
  }
  const absl::Status decoded = Decode(*view, all, /*precision=*/0, Basis::kOriginal, pages);
  return decoded.ok() ? BlockVerdict() : Miss(v1::MISS_REASON_CHECKSUM, decoded);
}

}  // namespace kvist
