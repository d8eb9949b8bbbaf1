// Decodes blocks that lie in device memory straight into an engine's pages, many tiles of many blocks in one launch.
//
// Shapes  of one layer's tensor of pages, outermost dimension first, row-major, 16-bit elements:
//           kPackedHnd      (pages, heads, page_tokens, 2 * head_dim)   K in the first half of a row, V in the second
//           kPackedNhd      (pages, page_tokens, heads, 2 * head_dim)
//           kKeyValueFirst  (2, pages, page_tokens, heads, head_dim)    K first
//           kMlaLatent      (pages, page_tokens, 576)                   512 latent channels, then 64 with positions
//         A latent is kept as a block of one head of 256 channels: K is channels 0 to 255, V the other 256. The 64
//         position channels of T tokens are a raw16 block of one head of 64 channels and T / 2 tokens: K is the first
//         half of the tokens, V the second (FORMAT.md has no head_dim of 512, and every block has K and V).
// Units   counts; bytes in names that end in _bytes; device addresses as pointers that the host never follows.
// Threads a plan is immutable; any number of launches may use one at once, each with a workspace of its own.
// Errors  of Make, all before anything is launched:
//           InvalidArgument     a layout, range or address that is wrong in itself; two requests that write the same
//                               tokens of a page; a plan beyond a grid. The message names value and limit
//           Unimplemented       a layout, dtype, shape, codec or number of bits that no kernel serves: the host decodes
//                               every codec
//           FailedPrecondition  the device holds fewer bytes than the precision needs; a codec that does not rotate
//           and those of BlockView::Parse for the host's copy of header and table.
//         Of a block's bytes, known only on the device: its status word, read by StatusOfWord. A block whose word is
//         not 0 was not decoded: its pages hold what they held before.
// Why     A layer of one block is decoded in less time than a launch takes. What the host knows (header, table, pages)
//         is checked here once; what only the device has (tile modes, checksums) is checked there, without waiting for
//         it.
#ifndef KVIST_KERNELS_CUDA_DECODE_H_
#define KVIST_KERNELS_CUDA_DECODE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/codec.h"
#include "kernels/cuda/tasks.h"

namespace kvist::cuda {

enum class PageOrder : uint8_t { kPackedHnd = 0, kPackedNhd = 1, kKeyValueFirst = 2, kMlaLatent = 3 };

// One layer's tensor; all layers of a plan have the same.
struct PageLayout {
  PageOrder order = PageOrder::kPackedNhd;
  uint32_t pages = 0, page_tokens = 0;
  uint32_t heads = 1;     // KV heads of this rank; 1 for kMlaLatent
  uint32_t head_dim = 0;  // ignored for kMlaLatent
  Dtype dtype = Dtype::kBf16;
};

struct DecodeRequest {
  const uint8_t* device_bytes = nullptr;  // the block or its first planes in one piece, aligned to 64 bytes
  uint64_t device_size_bytes = 0;
  absl::Span<const uint8_t> prefix;  // the host's copy of header and table; only Make reads it
  LayerRange layers;
  int precision = 0;  // 0 = the highest that the device's bytes hold
  Basis basis = Basis::kOriginal;
  uint32_t first_head = 0;  // head first_head + h of the block goes to head h of the pages: a tensor-parallel slice
  absl::Span<uint16_t* const> layer_pages;  // device address of each decoded layer's tensor, aligned to 16 bytes
  absl::Span<const uint32_t> block_table;   // pages of the block's tokens in order
  uint32_t first_page_token = 0;            // where the block starts in its first page
};

// Tokens of engine positions that a block of this shape covers: its own, and twice as many for position channels.
uint32_t EngineTokens(const PageLayout& layout, const BlockShape& shape);

// What Make says of the layout, the layers, heads, page addresses and the block table, whatever the block's bytes: for
// those who want to know before they fetch any. `request` needs neither bytes nor prefix.
absl::Status CheckPages(const PageLayout& layout, const BlockShape& shape, const DecodeRequest& request);

// Launches of one kernel.
struct LaunchGroup {
  Codec codec;
  uint32_t head_dim;
  Basis basis;
  uint32_t first_item, items;
};

class DecodePlan {
 public:
  static absl::StatusOr<DecodePlan> Make(const PageLayout& layout, absl::Span<const DecodeRequest> requests);

  // To be copied to device memory, aligned to 64 bytes, before a launch.
  absl::Span<const uint8_t> table_bytes() const { return table_; }
  // Device memory that a launch writes, aligned to 64 bytes; it starts with one status word (uint32) a request.
  size_t workspace_bytes() const { return workspace_bytes_; }

  size_t requests() const { return requests_; }
  uint32_t layer_tasks() const { return layer_tasks_; }
  uint32_t pieces() const { return pieces_; }
  uint32_t sum_items() const { return sum_items_; }
  absl::Span<const LaunchGroup> groups() const { return groups_; }
  uint64_t written_bytes() const { return written_bytes_; }  // of pages, if no block is refused

  // Addresses inside the copies of table_bytes() and of the workspace.
  DecodeTables TablesAt(const uint8_t* device_table, uint8_t* device_workspace) const;

 private:
  friend class PlanBuilder;
  std::vector<uint8_t> table_;
  size_t at_layers_ = 0, at_items_ = 0, at_pieces_ = 0, at_sum_items_ = 0, at_pages_ = 0;
  size_t at_tiles_ = 0, at_sums_ = 0, workspace_bytes_ = 0, requests_ = 0;
  uint32_t layer_tasks_ = 0, pieces_ = 0, sum_items_ = 0;
  uint64_t written_bytes_ = 0;
  std::vector<LaunchGroup> groups_;
};

// Puts the plan's kernels on `stream` (a cudaStream_t) of the current device: clear the status words, verify, resolve,
// decode. Never waits for the device. The caller keeps table, workspace, blocks and pages until the stream has passed.
// Errors: Internal       the runtime's message; what was put there before it may still run, its pages must not be used.
//         Unimplemented  built without CUDA.
absl::Status LaunchDecode(const DecodePlan& plan, const uint8_t* device_table, uint8_t* device_workspace, void* stream);

// The meaning of a status word: OK, or DataLoss (FailedPrecondition for a block that cannot be kept rotated).
absl::Status StatusOfWord(uint32_t word);

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_DECODE_H_
