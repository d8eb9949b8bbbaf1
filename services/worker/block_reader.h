// The one gate between bytes that came from somewhere and a worker's pages: nothing is decoded before everything about
// it was checked, and any doubt is a miss.
//
// Threads pure.
#ifndef KVIST_SERVICES_WORKER_BLOCK_READER_H_
#define KVIST_SERVICES_WORKER_BLOCK_READER_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "kernels/codec.h"
#include "kvist/v1/cache.pb.h"

namespace kvist {

struct ExpectedBlock {
  BlockIdentity identity;
  BlockShape shape;
  int min_precision = 0;  // bits per code; 0 = any
  float floor_db = 0;     // that the block must promise; 0 = any
};

struct BlockVerdict {
  v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;  // UNSPECIFIED = nothing is wrong
  std::string why;                                    // a sentence, for a miss
};

// Everything that a block's first bytes (header and table, and any number behind) and its size can tell; the planes'
// checksums are not compared. For blocks that lie where the host cannot read them.
BlockVerdict CheckPrefix(absl::Span<const uint8_t> prefix, uint64_t size_bytes, const ExpectedBlock& expected);

// The same, and compares the checksums of all planes.
BlockVerdict CheckBlock(absl::Span<const uint8_t> bytes, const ExpectedBlock& expected);

// The same, and decodes into `pages` (base = the block's first token).
//   CHECKSUM           not a block, cut off, or a header, table or plane that differs from its checksum
//   IDENTITY_MISMATCH  another key, namespace, profile, position or shape, or a format that this version does not read
//   PRECISION          fewer bits per code, or a lower promised SQNR, than expected
//   NO_PROFILE         of a codec that needs a profile, and `profile` is null
// A block may be the leading planes of one (a lower precision), but must end where a plane ends.
BlockVerdict ReadBlock(absl::Span<const uint8_t> bytes, const ExpectedBlock& expected, const Pages& pages,
                       const Profile* profile);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_BLOCK_READER_H_
