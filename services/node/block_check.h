// What a node checks of a block's bytes: all of them before a commit, its head when a reader asks for a part.
//
// Threads pure functions. Units bytes.
#ifndef KVIST_SERVICES_NODE_BLOCK_CHECK_H_
#define KVIST_SERVICES_NODE_BLOCK_CHECK_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"
#include "cachestore/key.h"
#include "kernels/block_format.h"

namespace kvist {

using Pieces = absl::Span<const absl::Span<const uint8_t>>;

// Verifies that the first `size_bytes` of `pieces` are one whole block of this key and namespace (empty = any),
// checksums included.
// On error `cause` says which metric it counts under: "format", "identity" or "checksum".
// Errors: InvalidArgument     not a block, cut off, longer than itself, or padding that is not zero;
//         FailedPrecondition  made for something else (both values are named);
//         DataLoss            a checksum; Unimplemented  a later format.
absl::Status CheckBeforeCommit(Pieces pieces, size_t size_bytes, const Key& key, std::string_view namespace_digest,
                               std::string_view* cause);

// The header and plane table of a stored block, contiguous: in place when the first piece holds them, else copied.
class BlockHead {
 public:
  static absl::StatusOr<BlockHead> Read(Pieces pieces);
  const BlockView& view() const { return view_; }
  bool IsOf(std::string_view namespace_digest) const;  // true also for an empty digest
  std::string_view HeadBytes() const;                  // header and table
  std::string ProfileDigest() const;                   // that decoding needs, 16 bytes; "" = none
  BlockContent content() const;                        // for the store that keeps the block

 private:
  std::vector<uint8_t> copy_;
  BlockView view_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_BLOCK_CHECK_H_
