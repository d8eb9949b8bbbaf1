#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/code_bits.h"
#include "kernels/cuda/encode.h"
#include "kernels/encode_floor.h"
#include "kernels/header.h"

namespace kvist::cuda {
namespace {

constexpr size_t kTableAlignment = 64;
constexpr size_t kMaxTiles = 1u << 24;  // of one launch

size_t Aligned(size_t bytes) { return (bytes + kTableAlignment - 1) / kTableAlignment * kTableAlignment; }

// What the kernels were written for. The host encodes the rest.
absl::Status CheckServed(const EncodeOptions& options, const BlockShape& shape) {
  const absl::StatusOr<BlockBits> bits = BitsOf(options, shape);
  if (!bits.ok()) return bits.status();
  const Codec codec = options.codec;
  const bool known = codec == Codec::kRaw16 || codec == Codec::kI8 || codec == Codec::kLadder;
  if (known && bits->most == bits->least && bits->most == DefaultBits(codec).key) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("no kernel encodes ", std::string(CodecName(codec)), " of ", bits->most,
                                               bits->most == bits->least ? "" : " and fewer", " bits; the host does"));
}

absl::Status Check(const EncodeRequest& request, size_t index) {
  absl::Status status = ValidateShape(request.shape);
  if (status.ok()) status = FloorOf(request.options).status();
  if (status.ok()) status = CheckTakes(request.options.codec, request.shape.dtype);
  if (status.ok() && (request.pages.base == nullptr || reinterpret_cast<uintptr_t>(request.pages.base) % 2 != 0)) {
    status =
        absl::InvalidArgumentError(absl::StrCat("pages at address ", reinterpret_cast<uintptr_t>(request.pages.base),
                                                "; not null and a multiple of 2 is allowed"));
  }
  if (status.ok()) status = CheckServed(request.options, request.shape);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("request ", index, ": ", status.message()));
}

EncodeBlock BlockOf(const EncodeRequest& request, uint32_t first_tile, uint64_t first_slot) {
  const ConstPages& pages = request.pages;
  EncodeBlock block = {};
  block.pages = pages.base;
  block.kv_stride = pages.kv_stride;
  block.layer_stride = pages.layer_stride;
  block.head_stride = pages.head_stride;
  block.token_stride = pages.token_stride;
  block.first_slot = first_slot;
  block.first_tile = first_tile;
  block.heads = request.shape.heads;
  block.tokens = request.shape.tokens;
  block.head_dim = request.shape.head_dim;
  block.sinks = HasSinks(request.options.codec, request.identity.first_position) ? kSinkTokens : 0;
  block.codec = request.options.codec;
  block.dtype = request.shape.dtype;
  return block;
}

}  // namespace

absl::StatusOr<EncodePlan> EncodePlan::Make(absl::Span<const EncodeRequest> requests) {
  EncodePlan plan;
  plan.requests_.assign(requests.begin(), requests.end());
  uint64_t slots = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (absl::Status status = Check(requests[i], i); !status.ok()) return status;
    const BlockShape& shape = requests[i].shape;
    const size_t tiles = 2 * size_t{shape.layers} * shape.heads;
    plan.blocks_.push_back(BlockOf(requests[i], uint32_t(plan.tiles_), slots));
    const EncodeBlock& block = plan.blocks_.back();
    plan.tiles_ += tiles;
    if (plan.tiles_ > kMaxTiles) {
      return absl::ResourceExhaustedError(
          absl::StrCat(plan.tiles_, " tiles up to request ", i, "; one launch takes ", kMaxTiles));
    }
    if (block.codec != Codec::kRaw16)
      slots += tiles * SlotOf(block.codec, block.tokens, block.head_dim, block.sinks, true).size_bytes;
  }
  std::vector<EncodeItem> items;
  for (Codec codec : {Codec::kI8, Codec::kLadder}) {
    const uint32_t first = uint32_t(items.size());
    for (uint32_t i = 0; i < requests.size(); ++i) {
      if (requests[i].options.codec != codec) continue;
      const uint32_t tiles = 2 * requests[i].shape.layers * requests[i].shape.heads;
      for (uint32_t tile = 0; tile < tiles; ++tile) items.push_back({i, tile});
    }
    if (items.size() > first) plan.groups_.push_back({codec, first, uint32_t(items.size() - first)});
  }
  plan.at_slots_ = Aligned(plan.sums_bytes());
  plan.workspace_bytes_ = plan.at_slots_ + slots;
  plan.at_items_ = Aligned(plan.blocks_.size() * sizeof(EncodeBlock));
  plan.table_.resize(plan.at_items_ + items.size() * sizeof(EncodeItem));
  std::copy_n(reinterpret_cast<const uint8_t*>(plan.blocks_.data()), plan.blocks_.size() * sizeof(EncodeBlock),
              plan.table_.begin());
  std::copy_n(reinterpret_cast<const uint8_t*>(items.data()), items.size() * sizeof(EncodeItem),
              plan.table_.begin() + plan.at_items_);
  return plan;
}

EncodeArguments EncodePlan::ArgumentsAt(const uint8_t* device_table, uint8_t* device_workspace,
                                        const Group& group) const {
  return {reinterpret_cast<const EncodeBlock*>(device_table),
          reinterpret_cast<const EncodeItem*>(device_table + at_items_), reinterpret_cast<TileSums*>(device_workspace),
          device_workspace + at_slots_, group.first_item};
}

}  // namespace kvist::cuda
