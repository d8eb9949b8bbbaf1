#include "services/worker/block_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr int kMaxPrecision = 16;

BlockVerdict Miss(v1::MissReason reason, const absl::Status& status) { return {reason, std::string(status.message())}; }

// Bits per code that the planes within the first `size_bytes` bytes give.
int PrecisionWithin(const BlockView& view, uint64_t size_bytes) {
  int planes = 0;
  for (; planes < view.planes(); ++planes) {
    const PlaneEntry last = view.Plane(planes, view.shape().layers - 1);
    if (uint64_t{last.offset} + last.size_bytes > size_bytes) break;
  }
  for (int bits = kMaxPrecision; bits > 0; --bits) {
    const absl::StatusOr<int> needed = view.PlanesFor(bits);
    if (needed.ok() && *needed <= planes) return bits;
  }
  return 0;
}

// A stored block that was demoted ends behind its last plane; one that ends elsewhere has lost bytes on its way.
bool EndsWhereAPlaneEnds(const BlockView& view, int precision, uint64_t size_bytes) {
  if (size_bytes == view.block_bytes()) return true;
  const absl::StatusOr<std::vector<ByteRange>> ranges = view.RangesFor(0, view.shape().layers, precision);
  return ranges.ok() && !ranges->empty() && ranges->back().offset + ranges->back().size_bytes == size_bytes;
}

BlockVerdict CheckPromise(const BlockView& view, int precision, const ExpectedBlock& expected) {
  if (precision < expected.min_precision) {
    return {v1::MISS_REASON_PRECISION,
            absl::StrCat("the block has ", precision, " bits per code; ", expected.min_precision, " were asked for")};
  }
  if (expected.floor_db > 0 && view.min_sqnr_db() < expected.floor_db) {
    return {v1::MISS_REASON_PRECISION, absl::StrCat("the block's worst tile has ", view.min_sqnr_db(), " dB; ",
                                                    expected.floor_db, " were asked for")};
  }
  return {};
}

BlockVerdict CheckView(const absl::StatusOr<BlockView>& view, uint64_t size_bytes, const ExpectedBlock& expected) {
  if (!view.ok()) {
    const bool unknown_format = view.status().code() == absl::StatusCode::kUnimplemented;
    return Miss(unknown_format ? v1::MISS_REASON_IDENTITY_MISMATCH : v1::MISS_REASON_CHECKSUM, view.status());
  }
  if (std::string mismatch = view->IdentityMismatch(expected.identity, expected.shape); !mismatch.empty()) {
    return {v1::MISS_REASON_IDENTITY_MISMATCH, std::move(mismatch)};
  }
  const int precision = PrecisionWithin(*view, size_bytes);
  if (precision == 0 || !EndsWhereAPlaneEnds(*view, precision, size_bytes)) {
    return {v1::MISS_REASON_CHECKSUM,
            absl::StrCat("the block is cut off at ", size_bytes, " of ", view->block_bytes(), " bytes")};
  }
  return CheckPromise(*view, precision, expected);
}

BlockVerdict CheckAll(const absl::StatusOr<BlockView>& view, uint64_t size_bytes, const ExpectedBlock& expected) {
  if (BlockVerdict verdict = CheckView(view, size_bytes, expected); verdict.miss != v1::MISS_REASON_UNSPECIFIED) {
    return verdict;
  }
  const absl::Status intact = view->Verify(0, expected.shape.layers, view->MaxPrecision());
  return intact.ok() ? BlockVerdict() : Miss(v1::MISS_REASON_CHECKSUM, intact);
}

}  // namespace

BlockVerdict CheckPrefix(absl::Span<const uint8_t> prefix, uint64_t size_bytes, const ExpectedBlock& expected) {
  return CheckView(BlockView::Parse(prefix), size_bytes, expected);
}

BlockVerdict CheckBlock(absl::Span<const uint8_t> bytes, const ExpectedBlock& expected) {
  return CheckAll(BlockView::Parse(bytes), bytes.size(), expected);
}

BlockVerdict ReadBlock(absl::Span<const uint8_t> bytes, const ExpectedBlock& expected, const Pages& pages,
                       const Profile* profile) {
  const absl::StatusOr<BlockView> view = BlockView::Parse(bytes);
  if (BlockVerdict verdict = CheckAll(view, bytes.size(), expected); verdict.miss != v1::MISS_REASON_UNSPECIFIED) {
    return verdict;
  }
  const bool calibrated = view->codec() == Codec::kQ;
  if (calibrated && profile == nullptr) {
    return {v1::MISS_REASON_NO_PROFILE, "the block's profile is not here yet; it is asked of the nodes"};
  }
  const absl::Status decoded = Decode(*view, {0, expected.shape.layers}, /*precision=*/0, Basis::kOriginal, pages,
                                      calibrated ? profile : nullptr);
  return decoded.ok() ? BlockVerdict() : Miss(v1::MISS_REASON_CHECKSUM, decoded);
}

}  // namespace kvist
