// Goal    Whatever 16-bit values an engine has, the block that Encode makes of them is whole and keeps its promise.
// Input   Six bytes that choose shape, codec and bits, floor, position and how far to repeat, then values.
// Method  The block is parsed, verified, decoded by both decoders, and its quality is measured from the values.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/codec.h"
#include "kernels/half.h"
#include "kernels/reference/decode.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate exact("an exact block"), lossy("a lossy block"), raised("a block with raised tiles"), wild("NaN or infinity"),
    sinks("a ladder block at position 0"), eight("a block of 8-bit codes of the ladder"),
    mixed("a block with codes of two lengths"), compressed("an x16 block without a raw16 tile"),
    bytes_kept("a block of bytes"), trellis("a trellis block");

constexpr uint32_t kHeadDims[] = {64, 80, 96, 128, 256};
constexpr int kBits[] = {0, 8, 4, 3, 2}, kTrellisBits[] = {0, 3, 2};

struct Chosen {
  BlockShape shape;
  EncodeOptions options;
  BlockIdentity identity;
  std::vector<uint16_t> values;
};

Chosen Take(fuzz::Input* input) {
  Chosen chosen;
  const uint8_t shape = input->Byte(), codec = input->Byte(), floor_db = input->Byte(), position = input->Byte();
  const uint64_t stride = 1 + input->Number(2);
  chosen.shape = {1, 1u + (shape >> 7), 16, kHeadDims[shape % 5], shape & 64 ? Dtype::kF16 : Dtype::kBf16};
  constexpr size_t kCodecs = std::size(kUncalibratedCodecs);
  chosen.options = {kUncalibratedCodecs[codec % kCodecs], static_cast<float>(floor_db) / 2};
  if (chosen.options.codec == Codec::kLadder) {
    chosen.options.key_bits = kBits[codec / kCodecs % 5];
    chosen.options.value_bits = kBits[codec / (5 * kCodecs) % 5];
  }
  if (chosen.options.codec == Codec::kTrellis) {
    chosen.options.key_bits = kTrellisBits[codec / kCodecs % 3];
    chosen.options.value_bits = kTrellisBits[codec / (3 * kCodecs) % 3];
  }
  if (chosen.options.codec == Codec::kFp8p) {
    const uint8_t kind = shape / 8 % 3;
    chosen.shape.dtype = static_cast<Dtype>(static_cast<uint8_t>(Dtype::kF8E4M3) + kind);
    if (chosen.shape.dtype == Dtype::kU8) chosen.shape.head_dim = 16 + 8 * (position % 127);
  }
  chosen.identity.first_position = position % 3 == 0 ? 0 : position;
  const absl::Span<const uint8_t> bytes = input->Rest();
  chosen.values.assign(chosen.shape.PlainBytes() / 2, 0);
  const size_t given = bytes.size() / 2;
  for (size_t i = 0; i < chosen.values.size() && given > 0; ++i) {  // the input, again and again, at a stride
    const size_t at = i * stride % given;
    chosen.values[i] = static_cast<uint16_t>(bytes[2 * at] | bytes[2 * at + 1] << 8);
  }
  return chosen;
}

struct Measured {
  double worst_db = INFINITY;
  bool all_exact = true;
};

Measured Measure(const Chosen& chosen, const std::vector<uint16_t>& decoded) {
  Measured measured;
  const size_t tile = chosen.shape.TileElements();
  for (size_t first = 0; first < decoded.size(); first += tile) {
    double signal = 0, noise = 0;
    bool finite = true;
    for (size_t i = first; i < first + tile; ++i) finite = finite && IsFinite(chosen.values[i], chosen.shape.dtype);
    for (size_t i = first; i < first + tile; ++i) {
      if (!finite) {
        KVIST_HOLDS(decoded[i] == chosen.values[i], "a tile with NaN or infinity is not kept as it is, at ", i);
        continue;
      }
      const double value = Widen(chosen.values[i], chosen.shape.dtype);
      const double off = Widen(decoded[i], chosen.shape.dtype) - value;
      signal += value * value;
      noise += off * off;
    }
    if (noise > 0) measured.worst_db = std::min(measured.worst_db, 10 * std::log10(signal / noise));
    if (noise > 0) measured.all_exact = false;
  }
  return measured;
}

std::vector<uint16_t> Decoded(const BlockView& view, bool oracle) {
  const BlockShape& shape = view.shape();
  std::vector<uint16_t> values(shape.PlainBytes() / 2);
  const Pages pages = ContiguousPages(values.data(), shape, shape.tokens);
  const absl::Status status = oracle ? reference::Decode(view, {0, shape.layers}, 0, Basis::kOriginal, pages)
                                     : Decode(view, {0, shape.layers}, 0, Basis::kOriginal, pages);
  KVIST_HOLDS(status.ok(), status.message());
  return values;
}

void Run(fuzz::Input input) {
  const Chosen chosen = Take(&input);
  const size_t most = MaxBlockBytes(chosen.shape, chosen.options.codec);
  std::vector<uint8_t> block(most);
  const auto pages = ContiguousPages<const uint16_t>(chosen.values.data(), chosen.shape, chosen.shape.tokens);
  const auto size = Encode(chosen.identity, chosen.shape, pages, chosen.options, absl::MakeSpan(block));
  if (!size.ok()) {
    KVIST_HOLDS(absl::IsInvalidArgument(size.status()) && !size.status().message().empty(), size.status().ToString());
    return;
  }
  KVIST_HOLDS(*size <= most, *size, " bytes of at most ", most);
  block.resize(*size);
  const fuzz::ExactBytes bytes(block);
  const auto view = BlockView::Parse(bytes.span());
  KVIST_HOLDS(view.ok(), view.status().message());
  KVIST_HOLDS(view->Verify(0, view->shape().layers, 0).ok(), "a new block fails its own checksums");
  KVIST_HOLDS(view->IdentityMismatch(chosen.identity, chosen.shape).empty(), "another identity");

  const std::vector<uint16_t> decoded = Decoded(*view, false);
  KVIST_HOLDS(decoded == Decoded(*view, true), "the vector decoder differs from the oracle");
  const bool one_byte = ElementBytes(chosen.shape.dtype) == 1;
  const Measured measured = one_byte ? Measured() : Measure(chosen, decoded);
  const bool bit_exact = KeepsValues(chosen.options.codec) || chosen.options.codec == Codec::kX16;
  KVIST_HOLDS(!bit_exact || decoded == chosen.values, std::string(CodecName(chosen.options.codec)), " changes bits");
  KVIST_HOLDS(measured.worst_db >= view->floor_db() - 0.01, measured.worst_db, " dB; promised ", view->floor_db());
  KVIST_HOLDS(measured.worst_db >= view->min_sqnr_db() - 0.01, measured.worst_db, " dB; said ", view->min_sqnr_db());
  KVIST_HOLDS(view->min_sqnr_db() < 65535 / 256.0f || measured.all_exact, "said to be exact");

  (measured.all_exact ? exact : lossy).Pass();
  if (view->raised_tiles() > 0) raised.Pass();
  if (chosen.options.codec == Codec::kX16 && view->raised_tiles() == 0) compressed.Pass();
  if (one_byte) bytes_kept.Pass();
  if (!one_byte &&
      std::any_of(decoded.begin(), decoded.end(), [&](uint16_t v) { return !IsFinite(v, chosen.shape.dtype); })) {
    wild.Pass();
  }
  if (chosen.options.codec == Codec::kLadder && chosen.identity.first_position == 0) sinks.Pass();
  if (view->codec() == Codec::kLadder && view->code_bits() == 8) eight.Pass();
  if (view->mixed_bits()) mixed.Pass();
  if (view->codec() == Codec::kTrellis) trellis.Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
