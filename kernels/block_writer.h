// Writes the parts of a block that every codec shares: header, plane table, checksums. FORMAT.md, "Header", "Planes".
#ifndef KVIST_KERNELS_BLOCK_WRITER_H_
#define KVIST_KERNELS_BLOCK_WRITER_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/block_format.h"

namespace kvist {

struct BlockSummary {
  float floor_db = 0;
  float min_sqnr_db = 0;      // kExactDb if every tile is exact
  uint32_t raised_tiles = 0;  // at a higher precision than the codec's
};

inline constexpr float kExactDb = 1e9f;

// Planes of a codec in the format, and the bits per code that all of them give.
int PlanesOf(Codec codec);
int CodeBitsOf(Codec codec);

// Where a block's planes begin: after header and table, aligned.
size_t DataOffset(const BlockShape& shape, Codec codec);

// Fills the table's hashes from the planes' bytes, then table and header of `block`, whose size is the block's.
// `table` is plane-major, with offsets and sizes set.
void FinishBlock(const BlockIdentity& identity, const BlockShape& shape, Codec codec, const BlockSummary& summary,
                 absl::Span<PlaneEntry> table, absl::Span<uint8_t> block);

}  // namespace kvist

#endif  // KVIST_KERNELS_BLOCK_WRITER_H_
