// The pieces of a block while it is encoded, and at last its table. Internal to kernels.
//
// Shapes  piece (plane, layer) as in FORMAT.md, "Table". Sides and q's streams, whose length follows the values, are kept
//         here until the end; pieces of codes are written into the block at once.
// Units   bytes.
// Threads one object, one thread.
// Errors  ResourceExhausted  the output is smaller than the block.
// Why     Codes are most of a block. They are written where they stay if every side has its expected length (no tile was
//         raised), so that they go to memory once and are hashed while a cache still has them; else they are moved at the end.
#ifndef KVIST_KERNELS_PIECES_H_
#define KVIST_KERNELS_PIECES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvist {

class Pieces {
 public:
  // `expected_bytes` by table entry: the most that a piece of codes will have, and what a side will have if no tile is
  // raised, at least; 0 for a piece that says nothing before it is there.
  Pieces(uint64_t prefix_bytes, int planes, uint32_t layers, const std::vector<size_t>& expected_bytes,
         absl::Span<uint8_t> out);

  // Of the whole block, if all have what was expected. REQUIRES: at most the output, before anything is written.
  uint64_t expected_block_bytes() const { return expected_end_; }

  // Where the next codes of a piece go; they count once they are taken.
  uint8_t* NextCodes(int plane, uint32_t layer) {
    Piece& piece = At(plane, layer);
    return out_.data() + piece.offset + piece.size;
  }
  void TakeCodes(int plane, uint32_t layer, size_t size) { At(plane, layer).size += size; }

  // A piece that is kept here.
  void Keep(int plane, uint32_t layer, std::vector<uint8_t> bytes);

  // Nothing of this layer changes any more.
  void FinishLayer(uint32_t layer);

  // Puts every piece where it belongs and writes the table. Returns the bytes of the block.
  absl::StatusOr<uint64_t> Finish();

 private:
  struct Piece {
    uint64_t offset = 0;  // in the output, of codes; then of all
    size_t size = 0;
    uint64_t hash = 0;
    std::vector<uint8_t> kept;
  };
  Piece& At(int plane, uint32_t layer) { return pieces_[size_t(plane) * layers_ + layer]; }
  void MoveCodes(const std::vector<uint64_t>& offsets);

  const uint64_t prefix_bytes_;
  const int planes_;
  const uint32_t layers_;
  const absl::Span<uint8_t> out_;
  uint64_t expected_end_;
  std::vector<Piece> pieces_;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_PIECES_H_
