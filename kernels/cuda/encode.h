// Encodes blocks on the device from an engine's pages, many tiles of many blocks in one launch, to the bytes of kvist::Encode.
//
// Shapes  pages as codec.h has them: strides for (kv, layer, head, token), so any layout with contiguous channels.
// Units   counts; strides count elements; bytes in names that end in _bytes; device addresses as pointers that the host
//         never follows.
// Threads plan and layout are immutable; a launch needs tables and a workspace of its own. Launches never wait.
// How     1. EncodePlan::Make; copy table_bytes() to the device; LaunchEncode: every form of every tile into the workspace.
//         2. Copy the first sums_bytes() of the workspace to the host, behind an event.
//         3. EncodeLayout::Make from the sums: which form each tile keeps, where it goes; copy its table_bytes() to the
//            device; LaunchWrite: moves, then checksums of pieces, tables, headers.
// Errors  of both Make, before anything is launched:
//           InvalidArgument     a shape, option, address or the number of sums is wrong; the message names value and limit
//           Unimplemented       a codec that no kernel encodes: the host encodes every one
//           ResourceExhausted   an output smaller than its block, or more tiles than one launch takes
// Accuracy bit for bit the block of kvist::Encode.
// Why     Whether a tile keeps its floor is a comparison of decibels, and a device's logarithm differs from a CPU's in the
//         last bit: the host decides (encode_floor.h), from 56 bytes a tile. Sizes follow from that decision, so blocks are
//         laid out after it.
#ifndef KVIST_KERNELS_CUDA_ENCODE_H_
#define KVIST_KERNELS_CUDA_ENCODE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/codec.h"
#include "kernels/cuda/encode_tasks.h"

namespace kvist::cuda {

struct EncodeRequest {
  BlockIdentity identity;
  BlockShape shape;
  ConstPages pages;  // device addresses, aligned to 2 bytes
  EncodeOptions options;
};

class EncodePlan {
 public:
  static absl::StatusOr<EncodePlan> Make(absl::Span<const EncodeRequest> requests);

  absl::Span<const uint8_t> table_bytes() const { return table_; }  // device copy aligned to 64 bytes
  size_t workspace_bytes() const { return workspace_bytes_; }       // aligned to 64 bytes; TileSums come first
  size_t sums_bytes() const { return tiles_ * sizeof(TileSums); }
  size_t tiles() const { return tiles_; }
  absl::Span<const EncodeRequest> requests() const { return requests_; }

  // Of one codec: tiles [first, first + items) of the launch. raw16 has nothing to encode.
  struct Group {
    Codec codec;
    uint32_t first_item, items;
  };
  absl::Span<const Group> groups() const { return groups_; }
  EncodeArguments ArgumentsAt(const uint8_t* device_table, uint8_t* device_workspace, const Group& group) const;
  const EncodeBlock& block(size_t request) const { return blocks_[request]; }
  size_t at_slots() const { return at_slots_; }

 private:
  std::vector<EncodeRequest> requests_;
  std::vector<EncodeBlock> blocks_;
  std::vector<Group> groups_;
  std::vector<uint8_t> table_;
  size_t at_items_ = 0, at_slots_ = 0, workspace_bytes_ = 0, tiles_ = 0;
};

struct EncodeOutput {
  uint8_t* device_bytes = nullptr;  // aligned to 64 bytes
  uint64_t capacity_bytes = 0;
};

class EncodeLayout {
 public:
  // `device_workspace` is that of the plan's launch; `device_table` where table_bytes() will be copied, of at least
  // MaxTableBytes(plan).
  static absl::StatusOr<EncodeLayout> Make(const EncodePlan& plan, absl::Span<const TileSums> sums,
                                           const uint8_t* device_workspace, uint8_t* device_table,
                                           absl::Span<const EncodeOutput> outputs);
  static size_t MaxTableBytes(const EncodePlan& plan);

  absl::Span<const uint8_t> table_bytes() const { return table_; }
  // The device's table: what is copied there and, after it, room for the checksums' sums.
  size_t device_table_bytes() const { return device_table_bytes_; }
  uint64_t block_bytes(size_t request) const { return block_bytes_[request]; }

  struct Tasks {
    const CopyTask* copies;
    const SealTask* seals[3];  // pieces, tables, headers: each reads what the one before wrote
    uint32_t copy_count, seal_counts[3];
  };
  const Tasks& tasks() const { return tasks_; }  // addresses in the device's table

 private:
  std::vector<uint8_t> table_;
  std::vector<uint64_t> block_bytes_;
  size_t device_table_bytes_ = 0;
  Tasks tasks_ = {};
};

// Put kernels on `stream` (a cudaStream_t) of the current device. The caller keeps all memory until the stream has passed.
// Errors: Internal the runtime's message; Unimplemented built without CUDA.
absl::Status LaunchEncode(const EncodePlan& plan, const uint8_t* device_table, uint8_t* device_workspace, void* stream);
absl::Status LaunchWrite(const EncodeLayout& layout, void* stream);

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_ENCODE_H_
