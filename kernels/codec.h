// Turns a KV block into fewer bytes and back. Pure functions on memory: no I/O, no locks; nothing here blocks.
//
// Shapes  pages   [2, layers, heads, tokens, head_dim], index 0 is K and 1 is V; any strides, head_dim contiguous.
//         block   the bytes of FORMAT.md, contiguous: header, plane table, planes.
// Units   counts, never bytes, except where a name ends in _bytes. Strides count units of two bytes: elements of bf16 and
//         f16, pairs of elements of the dtypes of one byte (head_dim is even, so that rows are whole). SQNR is in dB.
// Threads every function is pure: any number of threads may encode and decode, also one block at once.
// Accuracy decode is bit-identical on every CPU (FORMAT.md, "Arithmetic"); the scalar oracle is reference/.
#ifndef KVIST_KERNELS_CODEC_H_
#define KVIST_KERNELS_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/block_format.h"

namespace kvist {

class Profile;  // kernels/q/profile.h: what codec q knows of a model

// Where an engine keeps the KV of one block: element (kv, layer, head, token, i) is at
// base + kv*kv_stride + layer*layer_stride + head*head_stride + token*token_stride + i.
template <typename Element>
struct StridedPages {
  Element* base = nullptr;
  size_t kv_stride = 0, layer_stride = 0, head_stride = 0, token_stride = 0;

  Element* Row(size_t kv, size_t layer, size_t head, size_t token) const {
    return base + kv * kv_stride + layer * layer_stride + head * head_stride + token * token_stride;
  }
};
using Pages = StridedPages<uint16_t>;  // bf16 or f16 bits, or two bytes, by BlockShape::dtype
using ConstPages = StridedPages<const uint16_t>;

// Strides of one contiguous array [2, layers, heads, tokens_capacity, head_dim] whose token 0 is the block's first.
template <typename Element>
StridedPages<Element> ContiguousPages(Element* base, const BlockShape& shape, size_t tokens_capacity) {
  const size_t head = tokens_capacity * shape.RowUnits(), layer = shape.heads * head;
  return {base, shape.layers * layer, layer, head, shape.RowUnits()};
}

struct EncodeOptions {
  Codec codec = Codec::kLadder;
  // A tile whose SQNR would be less is stored at the next higher precision (ladder -> i8 -> raw16). 0 = the codec's
  // own default (kDefaultFloorDb). The floor is written into the header as a promise to readers.
  float floor_db = 0;
  // Bits of the codes of keys and of values: ladder 2, 3, 4 or 8, trellis 2, 3, or 8, which are rows and no codes of the
  // trellis, and not for all tiles. 0 = the codec's own: 4 and 4, 3 and 2. Keys need more than values.
  int key_bits = 0, value_bits = 0;
  absl::Span<const uint8_t> tile_bits = {};  // instead, [layers][2][heads], 0 = as above; empty = none has its own
  // Of ladder and trellis: the last heads of K and of V, kept as they are (raw16). For MLA: a layer's latent is coded in heads
  // of 64, its rotated part is the last one; two layers are the K and V of one.
  uint32_t exact_heads = 0;
  const Profile* profile = nullptr;  // of q, prepared for encoding; all others have none
};

inline constexpr float kDefaultFloorDbI8 = 30.0f;
// Of a tile with codes of 8, 4, 3 and 2 bits. A block promises the least that its tiles have.
inline constexpr float kDefaultFloorDbLadder8 = 30.0f;
inline constexpr float kDefaultFloorDbLadder = 15.0f;
inline constexpr float kDefaultFloorDbLadder3 = 11.0f;
inline constexpr float kDefaultFloorDbLadder2 = 6.5f;
inline constexpr float kDefaultFloorDbTrellis3 = 12.0f;
inline constexpr float kDefaultFloorDbTrellis2 = 9.0f;

// What Encode says of the options, whatever the values.
absl::Status ValidateOptions(const EncodeOptions& options, const BlockShape& shape);

// Bytes that Encode needs at most for any input, and bytes that it writes when no tile needs a higher precision. Of x16,
// whose bytes follow the values: at most, for exponents as those of real KV.
// Of q: for two bits a value.
size_t MaxBlockBytes(const BlockShape& shape, Codec codec);
// REQUIRES: options that Encode takes.
size_t NominalBlockBytes(const BlockIdentity& identity, const BlockShape& shape, const EncodeOptions& options);
inline size_t NominalBlockBytes(const BlockIdentity& identity, const BlockShape& shape, Codec codec) {
  return NominalBlockBytes(identity, shape, EncodeOptions{codec});
}

// Encodes `pages` as one block into `out` and returns the bytes written (at most MaxBlockBytes).
// Decodes its own output, records each tile's SQNR, and raises the precision of tiles below the floor.
// A tile that holds NaN or Inf is stored as it is (raw16) and touches no other tile.
// REQUIRES: `out` and `pages` do not overlap.
// Errors:   InvalidArgument     a shape or option out of range, a codec that does not take the dtype (named in the message);
//                               nothing is written.
//           FailedPrecondition  a profile that was not prepared for encoding.
//           ResourceExhausted   `out` is smaller than the block.
absl::StatusOr<size_t> Encode(const BlockIdentity& identity, const BlockShape& shape, const ConstPages& pages,
                              const EncodeOptions& options, absl::Span<uint8_t> out);

struct LayerRange {
  uint32_t first = 0, last = 0;  // [first, last)
};

// Decodes layers [first, last) of `block` at `precision` bits (0 = the highest that is stored; a tile with fewer gives
// what it has) into `pages`, whose base
// is layer 0 of the block even when `layers` starts later. Does not verify checksums: call BlockView::Verify once.
// A q block needs the profile that its header names, and the layers that BlockView::RangesFor names.
// REQUIRES: `pages` covers the shape's elements and does not overlap the block.
// Errors:   InvalidArgument     a layer out of range, a precision that this codec does not have, a profile that it does not need.
//           FailedPrecondition  the view holds fewer planes than `precision` needs, or kKeptRotated is not possible; of q no
//                               profile, or another one: the message names the digest.
//           DataLoss            a field inside a verified plane is out of its range; `pages` must not be used.
absl::Status Decode(const BlockView& block, LayerRange layers, int precision, Basis basis, const Pages& pages,
                    const Profile* profile = nullptr);

}  // namespace kvist

#endif  // KVIST_KERNELS_CODEC_H_
