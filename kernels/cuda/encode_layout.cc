// Which form each tile keeps, and where its parts go: FORMAT.md's pieces in table order, as copies and checksums to be made.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/xxh3.h"
#include "kernels/encode_floor.h"
#include "kernels/header.h"
#include "kernels/tile.h"

namespace kvist::cuda {
namespace {

constexpr size_t kTableAlignment = 64;
size_t Aligned(size_t bytes) { return (bytes + kTableAlignment - 1) / kTableAlignment * kTableAlignment; }

struct TileChoice {
  TileMode mode;
  double sqnr_db;
};

double DbOf(const FormSums& sums) { return TileSqnrDb(sums.signal, sums.noise, sums.identical, sums.finite); }

// The first form that keeps the floor, in the order of encode.cc.
TileChoice Choose(Codec codec, const TileSums& sums, double floor_db) {
  const TileChoice raw = {TileMode::kRaw16, INFINITY};
  if (codec == Codec::kRaw16 || !sums.finite) return raw;
  if (const double own = DbOf(sums.own); own >= floor_db) return {TileMode::kOwn, own};
  if (codec != Codec::kLadder) return raw;
  const double rotated = DbOf(sums.rotated);
  return rotated >= floor_db ? TileChoice{TileMode::kRotatedI8, rotated} : raw;
}

// Tasks and images of all blocks, before the table's own offsets are known.
struct Work {
  std::vector<uint8_t> images;  // first in the table
  std::vector<CopyTask> copies;
  std::vector<SealTask> seals[3];
  uint64_t kibs = 0;
};

class BlockLayout {
 public:
  BlockLayout(const EncodeRequest& request, const EncodeBlock& block, absl::Span<const TileSums> sums,
              const uint8_t* slots, const uint8_t* device_table, uint8_t* out, Work& work)
      : request_(request),
        block_(block),
        sizes_(block.codec, request.shape, request.identity.first_position),
        slots_(slots + block.first_slot),
        slot_bytes_(SlotOf(block.codec, block.tokens, block.head_dim, block.sinks, true).size_bytes),
        device_table_(device_table),
        out_(out),
        work_(work) {
    header_.codec = block.codec;
    header_.shape = request.shape;
    header_.identity = request.identity;
    header_.floor_db256 = FloorOf(request.options).value();  // EncodePlan::Make has seen it
    double worst_db = INFINITY;
    for (const TileSums& tile : sums) {
      choices_.push_back(Choose(block.codec, tile, header_.floor_db256 / 256.0f));
      worst_db = std::min(worst_db, choices_.back().sqnr_db);
      if (header_.codec != Codec::kRaw16 && choices_.back().mode != TileMode::kOwn) ++header_.raised_tiles;
    }
    header_.min_sqnr_db256 = BlockSqnr(worst_db);
  }

  // Lays the block out. Its length is known when this returns, and nothing has been written.
  uint64_t Write() {
    std::vector<uint8_t> image(header_.PrefixBytes());
    uint64_t end = image.size();
    for (int plane = 0; plane < header_.Planes(); ++plane) {
      for (uint32_t layer = 0; layer < request_.shape.layers; ++layer) {
        const uint64_t first = AlignPlane(end), gap = first - end;
        if (gap != 0) Copy(nullptr, out_ + end, gap);
        end = plane == 0 ? Side(layer, first) : Codes(plane, layer, first);
        const size_t entry = kHeaderBytes + (size_t(plane) * request_.shape.layers + layer) * kPlaneEntryBytes;
        StoreLe(first, 4, &image[entry]);
        StoreLe(end - first, 4, &image[entry + 4]);
        Seal(0, out_ + first, end - first, out_ + entry + 8);
      }
    }
    header_.block_bytes = end;
    WriteHeader(header_, image.data());
    Copy(Image(image), out_, image.size());
    Seal(1, out_ + kHeaderBytes, image.size() - kHeaderBytes, out_ + kHeaderBytes - 16);
    Seal(2, out_, kHeaderBytes - 8, out_ + kHeaderBytes - 8);
    return end;
  }

 private:
  size_t Tiles() const { return 2 * size_t{request_.shape.heads}; }
  const TileChoice& Choice(uint32_t layer, size_t i) const { return choices_[layer * Tiles() + i]; }
  const uint8_t* Slot(uint32_t layer, size_t i) const { return slots_ + (layer * Tiles() + i) * slot_bytes_; }
  EncodeSlot At(size_t i) const {
    return SlotOf(block_.codec, block_.tokens, block_.head_dim, block_.sinks, i < request_.shape.heads);
  }

  void Copy(const uint8_t* from, uint8_t* to, size_t bytes) {
    work_.copies.push_back({from, to, 0, 1, uint32_t(bytes)});
  }
  const uint8_t* Image(absl::Span<const uint8_t> bytes) {
    const size_t at = work_.images.size();
    work_.images.insert(work_.images.end(), bytes.begin(), bytes.end());
    return device_table_ + at;
  }
  // The sums' place is an index until the table's offsets are known.
  void Seal(int stage, const uint8_t* from, uint64_t bytes, uint8_t* to) {
    work_.seals[stage].push_back({from, bytes, reinterpret_cast<KibSums*>(work_.kibs), to});
    work_.kibs += xxh3::ChainedKibs(bytes);
  }

  uint64_t Side(uint32_t layer, uint64_t at) {
    if (header_.codec != Codec::kRaw16) {
      std::vector<uint8_t> modes(2 * Tiles());
      for (size_t i = 0; i < Tiles(); ++i) {
        modes[i] = uint8_t(Choice(layer, i).mode);
        modes[Tiles() + i] = TileSqnr(Choice(layer, i).sqnr_db);
      }
      Copy(Image(modes), out_ + at, modes.size());
      at += modes.size();
    }
    for (size_t i = 0; i < Tiles(); ++i) {
      const TileMode mode = Choice(layer, i).mode;
      const size_t bytes = sizes_.Record(mode, i < request_.shape.heads);
      if (mode == TileMode::kRaw16) {
        Values(layer, i, out_ + at);
      } else {
        Copy(Slot(layer, i) + (mode == TileMode::kOwn ? At(i).record : At(i).wide), out_ + at, bytes);
      }
      at += bytes;
    }
    return at;
  }

  void Values(uint32_t layer, size_t i, uint8_t* to) {
    const uint16_t* row = request_.pages.Row(i / request_.shape.heads, layer, i % request_.shape.heads, 0);
    work_.copies.push_back({reinterpret_cast<const uint8_t*>(row), to, 2 * uint64_t{block_.token_stride}, block_.tokens,
                            2 * block_.head_dim});
  }

  uint64_t Codes(int plane, uint32_t layer, uint64_t at) {
    const size_t bytes = sizes_.CodePlane(plane);
    for (size_t i = 0; i < Tiles(); ++i) {
      if (Choice(layer, i).mode != TileMode::kOwn) continue;
      Copy(Slot(layer, i) + At(i).planes[plane - 1], out_ + at, bytes);
      at += bytes;
    }
    return at;
  }

  const EncodeRequest& request_;
  const EncodeBlock& block_;
  const TileSizes sizes_;
  const uint8_t* const slots_;
  const size_t slot_bytes_;
  const uint8_t* const device_table_;
  uint8_t* const out_;
  Work& work_;
  BlockHeader header_;
  std::vector<TileChoice> choices_;
};

template <typename T>
const T* Append(const std::vector<T>& items, const uint8_t* device_table, std::vector<uint8_t>& table) {
  const size_t at = Aligned(table.size());
  table.resize(at + items.size() * sizeof(T));
  if (!items.empty()) std::memcpy(&table[at], items.data(), items.size() * sizeof(T));
  return reinterpret_cast<const T*>(device_table + at);
}

absl::Status CheckOutput(const EncodeOutput& output, uint64_t block_bytes, size_t index) {
  if (block_bytes <= output.capacity_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("request ", index, ": block of ", block_bytes, " bytes; the output holds ", output.capacity_bytes));
}

absl::Status CheckCounts(const EncodePlan& plan, absl::Span<const TileSums> sums,
                         absl::Span<const EncodeOutput> outputs) {
  if (sums.size() != plan.tiles() || outputs.size() != plan.requests().size()) {
    return absl::InvalidArgumentError(absl::StrCat(sums.size(), " sums and ", outputs.size(), " outputs for ",
                                                   plan.tiles(), " tiles and ", plan.requests().size(), " requests"));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(outputs[i].device_bytes);
    if (address != 0 && address % kPlaneAlignment == 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("output ", i, " at address ", address,
                                                   "; not null and a multiple of ", kPlaneAlignment, " is allowed"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t EncodeLayout::MaxTableBytes(const EncodePlan& plan) {
  size_t bytes = 5 * kTableAlignment;
  for (const EncodeRequest& request : plan.requests()) {
    BlockHeader header;
    header.codec = request.options.codec;
    header.shape = request.shape;
    const size_t tiles = 2 * size_t{request.shape.layers} * request.shape.heads, planes = header.Planes();
    const size_t images = header.PrefixBytes() + 2 * tiles;
    const size_t copies = 1 + header.Pieces() + request.shape.layers + tiles * planes;
    const size_t kibs = MaxBlockBytes(request.shape, header.codec) / xxh3::kKib + 1;
    bytes += images + copies * sizeof(CopyTask) + (header.Pieces() + 2) * sizeof(SealTask) + kibs * sizeof(KibSums);
  }
  return bytes;
}

absl::StatusOr<EncodeLayout> EncodeLayout::Make(const EncodePlan& plan, absl::Span<const TileSums> sums,
                                                const uint8_t* device_workspace, uint8_t* device_table,
                                                absl::Span<const EncodeOutput> outputs) {
  if (absl::Status status = CheckCounts(plan, sums, outputs); !status.ok()) return status;
  EncodeLayout layout;
  Work work;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const EncodeRequest& request = plan.requests()[i];
    const size_t tiles = 2 * size_t{request.shape.layers} * request.shape.heads;
    BlockLayout block(request, plan.block(i), sums.subspan(plan.block(i).first_tile, tiles),
                      device_workspace + plan.at_slots(), device_table, outputs[i].device_bytes, work);
    layout.block_bytes_.push_back(block.Write());
    if (absl::Status status = CheckOutput(outputs[i], layout.block_bytes_[i], i); !status.ok()) return status;
  }
  // What follows the images is laid out in this order; the sums come last and are not copied.
  size_t at_sums = Aligned(work.images.size()) + work.copies.size() * sizeof(CopyTask);
  for (const auto& seals : work.seals) at_sums = Aligned(at_sums) + seals.size() * sizeof(SealTask);
  at_sums = Aligned(at_sums);
  for (auto& seals : work.seals) {
    for (SealTask& seal : seals) {
      const uint64_t index = reinterpret_cast<uint64_t>(seal.sums);
      seal.sums = reinterpret_cast<KibSums*>(device_table + at_sums) + index;
    }
  }
  layout.table_ = std::move(work.images);
  layout.tasks_.copies = Append(work.copies, device_table, layout.table_);
  layout.tasks_.copy_count = uint32_t(work.copies.size());
  for (int stage = 0; stage < 3; ++stage) {
    layout.tasks_.seals[stage] = Append(work.seals[stage], device_table, layout.table_);
    layout.tasks_.seal_counts[stage] = uint32_t(work.seals[stage].size());
  }
  layout.device_table_bytes_ = at_sums + work.kibs * sizeof(KibSums);
  return layout;
}

}  // namespace kvist::cuda
