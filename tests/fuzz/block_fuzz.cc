// Goal    No bytes make Parse, Verify, RangesFor or Decode crash, read out of bounds or write outside the pages; what
//         they say of one block agrees; the vector decoder writes what the oracle writes.
// Input   4 bytes that choose layers, precision, basis and a cut, then a block.
// Method  Most mutants get right checksums again, so that the checks behind the checksums are reached.
#include <algorithm>
#include <vector>

#include "kernels/codec.h"
#include "kernels/reference/decode.h"
#include "tests/fuzz/block_input.h"
#include "tests/kernels/q/synthetic_profile.h"

namespace kvist {
namespace {

using Choice = fuzz::BlockChoice;
using fuzz::Gate;

constexpr uint16_t kGuard = 0xbeef;
constexpr size_t kGuards = 64;

Gate refused_checksum("refused for a checksum"), refused_table("refused for its shape or table"), parsed("parsed"),
    partial("parsed without its last planes"), bad_plane("a plane whose checksum is wrong"), decoded("decoded"),
    rotated("decoded as kept"), eight("decoded at 8 bits of the ladder"), mixed("decoded with tiles that lack planes"),
    trellis("decoded a trellis block"), q("decoded a q block"),
    refused_by_decode("refused by Decode for what a plane holds");

void CheckRanges(const BlockView& view, const std::vector<ByteRange>& ranges) {
  KVIST_HOLDS(!ranges.empty() && ranges.front().offset == 0, "header and table come first");
  uint64_t end = 0;
  for (const ByteRange& range : ranges) {
    KVIST_HOLDS(range.size_bytes > 0 || range.offset == 0, "an empty range at ", range.offset);
    KVIST_HOLDS(range.offset >= end, "ranges overlap at ", range.offset);
    end = range.offset + range.size_bytes;
    KVIST_HOLDS(end <= view.block_bytes(), "a range ends at ", end, " of ", view.block_bytes());
  }
}

// Of every q block here: two layers, the second predicted from the first; of one head, or of two that are coded apart.
const Profile& TheProfile(uint32_t heads) {
  static const Profile one = MakeProfile({.layers = 2, .layers_between_resets = 0, .layers_before = 1});
  static const Profile two =
      MakeProfile({.layers = 2, .heads = 2, .layers_between_resets = 0, .layers_before = 1, .groups = 2});
  return heads == 2 ? two : one;
}

struct Decoded {
  absl::Status status;
  std::vector<uint16_t> values;
};

template <typename Decoder>
Decoded DecodeInto(const BlockView& view, const Choice& choice, const Decoder& decoder) {
  const BlockShape& shape = view.shape();
  Decoded result;
  result.values.assign(shape.PlainBytes() / 2 + 2 * kGuards, kGuard);
  const Pages pages = ContiguousPages(result.values.data() + kGuards, shape, shape.tokens);
  result.status = decoder(view, LayerRange{choice.first_layer, choice.last_layer}, choice.precision, choice.basis,
                          pages, view.codec() == Codec::kQ ? &TheProfile(shape.heads) : nullptr);
  for (size_t i = 0; i < kGuards; ++i) {
    KVIST_HOLDS(result.values[i] == kGuard && result.values[result.values.size() - 1 - i] == kGuard, "wrote outside");
  }
  return result;
}

// What RangesFor names is enough: all other bytes may be anything.
void CheckThatRangesAreEnough(const BlockView& view, const Choice& choice, const Decoded& expected) {
  const auto ranges = view.RangesFor(choice.first_layer, choice.last_layer, choice.precision);
  KVIST_HOLDS(ranges.ok(), "decoded, but no ranges: ", ranges.status().message());
  std::vector<uint8_t> only(view.bytes().size(), 0xa5);
  for (const ByteRange& range : *ranges) {
    if (range.offset + range.size_bytes > only.size()) return;  // precision 0 = stored; the ranges are of the whole
    std::copy_n(view.bytes().begin() + range.offset, range.size_bytes, only.begin() + range.offset);
  }
  const auto copy = BlockView::Parse(only);
  KVIST_HOLDS(copy.ok(), copy.status().message());
  const Decoded again = DecodeInto(*copy, choice, &Decode);
  KVIST_HOLDS(again.status == expected.status && again.values == expected.values, "RangesFor leaves out needed bytes");
}

void DecodeBothWays(const BlockView& view, const Choice& choice) {
  if (view.shape().PlainBytes() > fuzz::kMaxPlainBytes) return;
  const Decoded simd = DecodeInto(view, choice, &Decode), oracle = DecodeInto(view, choice, &reference::Decode);
  KVIST_HOLDS(simd.status == oracle.status, simd.status.message(), " / ", oracle.status.message());
  KVIST_HOLDS(simd.status.ok() || !simd.status.message().empty(), "refused without a word");
  if (simd.status.code() == absl::StatusCode::kDataLoss) refused_by_decode.Pass();
  if (!simd.status.ok()) return;
  KVIST_HOLDS(simd.values == oracle.values, "the vector decoder differs from the oracle");
  CheckThatRangesAreEnough(view, choice, simd);
  decoded.Pass();
  if (choice.basis == Basis::kKeptRotated) rotated.Pass();
  if (view.codec() == Codec::kLadder && view.code_bits() == 8 && choice.precision % 8 == 0) eight.Pass();
  if (view.mixed_bits()) mixed.Pass();
  if (view.codec() == Codec::kTrellis) trellis.Pass();
  if (view.codec() == Codec::kQ) q.Pass();
}

// Less of a block is the same block with fewer planes.
void CheckCut(const BlockView& view, const Choice& choice) {
  const absl::Span<const uint8_t> bytes = view.bytes();
  const fuzz::ExactBytes cut(bytes.first(bytes.size() - bytes.size() * choice.cut / 256));
  const auto less = BlockView::Parse(cut.span());
  const size_t prefix_bytes = BlockView::PrefixBytes(bytes).value();
  KVIST_HOLDS(less.ok() == (cut.span().size() >= prefix_bytes), less.status().message());
  if (!less.ok()) return;
  KVIST_HOLDS(less->PlanesPresent() <= view.PlanesPresent(), less->PlanesPresent());
  KVIST_HOLDS(less->identity() == view.identity() && less->shape() == view.shape(), "a cut changed the header");
  if (less->PlanesPresent() < less->planes()) partial.Pass();
  (void)less->Verify(choice.first_layer, choice.last_layer, choice.precision);
  DecodeBothWays(*less, choice);
}

// Profiles are compressed: their digest is not the same with every zlib, and no input can know it.
void NameTheProfile(std::vector<uint8_t>& block) {
  constexpr size_t kAtCodec = 10, kAtHeads = 20, kAtProfile = 80, kAtChecksum = 120;
  if (block.size() < kHeaderBytes || block[kAtCodec] != uint8_t(Codec::kQ)) return;
  if (XXH3_64bits(block.data(), kAtChecksum) != LoadLe(&block[kAtChecksum], 8)) return;
  const Profile& profile = TheProfile(uint32_t(LoadLe(&block[kAtHeads], 2)));
  std::copy(profile.digest().begin(), profile.digest().end(), block.begin() + kAtProfile);
  StoreLe(XXH3_64bits(block.data(), kAtChecksum), 8, &block[kAtChecksum]);
}

void Read(const Choice& choice, absl::Span<const uint8_t> bytes) {
  const auto prefix_bytes = BlockView::PrefixBytes(bytes);
  const auto view = BlockView::Parse(bytes);
  if (!view.ok()) {
    KVIST_HOLDS(!view.status().message().empty(), "refused without a word");
    (view.status().code() == absl::StatusCode::kDataLoss ? refused_checksum : refused_table).Pass();
    return;
  }
  parsed.Pass();
  KVIST_HOLDS(prefix_bytes.ok() && *prefix_bytes <= bytes.size(), "parsed without its table");
  KVIST_HOLDS(ValidateShape(view->shape()).ok(), "a shape that is not allowed");
  KVIST_HOLDS(view->IdentityMismatch(view->identity(), view->shape()).empty(), "a block differs from itself");
  KVIST_HOLDS(!view->IdentityMismatch(view->identity(), {}).empty(), "no block has this shape");
  const absl::Status verified = view->Verify(choice.first_layer, choice.last_layer, choice.precision);
  if (verified.code() == absl::StatusCode::kDataLoss) bad_plane.Pass();
  const auto ranges = view->RangesFor(choice.first_layer, choice.last_layer, choice.precision);
  if (ranges.ok()) CheckRanges(*view, *ranges);
  KVIST_HOLDS(ranges.ok() || !verified.ok(), "verified, but no ranges: ", ranges.status().message());
  DecodeBothWays(*view, choice);
  CheckCut(*view, choice);
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::fuzz::Input input(data, size);
  const kvist::Choice choice = kvist::fuzz::TakeChoice(&input);
  const absl::Span<const uint8_t> rest = input.Rest();
  std::vector<uint8_t> bytes(rest.begin(), rest.end());
  kvist::NameTheProfile(bytes);
  const kvist::fuzz::ExactBytes block(bytes);
  kvist::Read(choice, block.span());
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  return kvist::fuzz::MutateBlock(data, size, max_size, seed);
}
