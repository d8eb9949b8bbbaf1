#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/page_strides.h"
#include "kernels/cuda/page_uses.h"
#include "kernels/cuda/plan_limits.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/xxh3.h"
#include "kernels/header.h"

namespace kvist::cuda {
namespace {

constexpr size_t kBlockAlignment = 64, kPageAlignment = 16, kSection = 64;

absl::Status Named(size_t request, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("request ", request, ": ", status.message()));
}

size_t AlignSection(size_t at) { return (at + kSection - 1) / kSection * kSection; }

template <typename T>
size_t Append(const std::vector<T>& values, std::vector<uint8_t>& table) {
  const size_t at = AlignSection(table.size());
  table.resize(at + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(table.data() + at, values.data(), values.size() * sizeof(T));
  return at;
}

// A request after every check that the host can make.
struct Checked {
  BlockView view;
  int precision, planes;
  PageStrides strides;
};

absl::Status CheckBlockTable(const PageLayout& layout, const BlockShape& shape, const DecodeRequest& request) {
  const uint32_t covered = TokensOf(layout, shape).covered, first = request.first_page_token;
  if (first >= layout.page_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_page_token ", first, " of a page of ", layout.page_tokens, " tokens"));
  }
  const uint64_t pages = (uint64_t{first} + covered + layout.page_tokens - 1) / layout.page_tokens;
  if (request.block_table.size() != pages) {
    return absl::InvalidArgumentError(absl::StrCat("block table of ", request.block_table.size(), " pages; ", covered,
                                                   " tokens from token ", first, " on need ", pages, " pages of ",
                                                   layout.page_tokens));
  }
  for (size_t i = 0; i < pages; ++i) {
    if (request.block_table[i] >= layout.pages) {
      return absl::InvalidArgumentError(
          absl::StrCat("block table entry ", i, " is page ", request.block_table[i], "; there are ", layout.pages));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBlockAddress(const DecodeRequest& request) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(request.device_bytes);
  if (address != 0 && address % kBlockAlignment == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("block at ", address, ": not an address aligned to ", kBlockAlignment, " bytes"));
}

absl::Status CheckPageAddresses(const DecodeRequest& request) {
  if (request.layer_pages.size() != request.layers.last - request.layers.first) {
    return absl::InvalidArgumentError(absl::StrCat(request.layer_pages.size(), " page tensors for layers [",
                                                   request.layers.first, ", ", request.layers.last, ")"));
  }
  for (size_t i = 0; i < request.layer_pages.size(); ++i) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(request.layer_pages[i]);
    if (address != 0 && address % kPageAlignment == 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("pages of layer ", request.layers.first + i, " at ", address,
                                                   ": not an address aligned to ", kPageAlignment, " bytes"));
  }
  return absl::OkStatus();
}

uint32_t Chunks(const BlockShape& shape) {
  return (shape.tokens + RowsOfBlock(shape.head_dim) - 1) / RowsOfBlock(shape.head_dim);
}

// Whether planes [0, planes) of the layers end inside the device's bytes.
bool Holds(const BlockView& view, LayerRange layers, int planes, uint64_t size_bytes) {
  for (int plane = 0; plane < planes; ++plane) {
    const PlaneEntry last = view.Plane(plane, layers.last - 1);
    if (uint64_t{last.offset} + last.size_bytes > size_bytes) return false;
  }
  return true;
}

absl::Status ChoosePrecision(const DecodeRequest& request, Checked& checked) {
  const BlockView& view = checked.view;
  const bool ladder = view.codec() == Codec::kLadder;
  const int full = view.code_bits(), least = ladder ? 2 : full;
  checked.precision = request.precision == 0 ? full : request.precision;
  for (;; checked.precision = ladder && checked.precision == 8 ? 4 : checked.precision - 1) {
    absl::StatusOr<int> planes = view.PlanesFor(checked.precision);
    if (!planes.ok()) return planes.status();
    checked.planes = *planes;
    if (Holds(view, request.layers, *planes, request.device_size_bytes)) return absl::OkStatus();
    if (request.precision != 0 || checked.precision == least) break;
  }
  return absl::FailedPreconditionError(absl::StrCat("precision ", checked.precision, " needs ", checked.planes,
                                                    " planes; ", request.device_size_bytes,
                                                    " bytes on the device do not hold them"));
}

absl::Status CheckSides(const BlockView& view, LayerRange layers) {
  if (view.codec() == Codec::kRaw16) return absl::OkStatus();
  for (uint32_t layer = layers.first; layer < layers.last; ++layer) {
    const uint32_t size = view.Plane(0, layer).size_bytes;
    if (size >= 4 * view.shape().heads) continue;
    return absl::DataLossError(absl::StrCat("layer ", layer, ": side piece of ", size, " bytes"));
  }
  return absl::OkStatus();
}

// What the kernels were written for. They would take any other codec for one of these.
absl::Status CheckCodec(Codec codec) {
  if (codec == Codec::kRaw16 || codec == Codec::kI8 || codec == Codec::kLadder) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("no kernel decodes ", std::string(CodecName(codec)), "; the host does"));
}

absl::Status CheckBits(const BlockView& view, int precision) {
  if (view.codec() != Codec::kLadder || (precision <= 4 && !view.mixed_bits())) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("no kernel decodes ladder at ", precision,
                                               view.mixed_bits() ? " and fewer" : "", " bits; the host does"));
}

absl::StatusOr<Checked> Check(const PageLayout& layout, const DecodeRequest& request) {
  Checked checked{};
  absl::StatusOr<BlockView> view = BlockView::Parse(request.prefix);
  if (!view.ok()) return view.status();
  if (absl::Status codec = CheckCodec(view->codec()); !codec.ok()) return codec;
  checked.view = *view;
  const BlockShape& shape = view->shape();
  absl::StatusOr<PageStrides> strides = StridesFor(layout, shape, view->codec());
  if (!strides.ok()) return strides.status();
  checked.strides = *strides;
  if (absl::Status pages = CheckPages(layout, shape, request); !pages.ok()) return pages;
  if (request.basis == Basis::kKeptRotated && !IsRotated(view->codec())) {
    return absl::FailedPreconditionError(
        absl::StrCat(std::string(CodecName(view->codec())), " does not rotate: no kept basis"));
  }
  for (const absl::Status& status :
       {CheckBlockAddress(request), ChoosePrecision(request, checked), CheckSides(*view, request.layers)}) {
    if (!status.ok()) return status;
  }
  if (absl::Status bits = CheckBits(*view, checked.precision); !bits.ok()) return bits;
  return checked;
}

}  // namespace

uint32_t EngineTokens(const PageLayout& layout, const BlockShape& shape) { return TokensOf(layout, shape).covered; }

absl::Status CheckPages(const PageLayout& layout, const BlockShape& shape, const DecodeRequest& request) {
  if (request.layers.first >= request.layers.last || request.layers.last > shape.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layers [", request.layers.first, ", ", request.layers.last, ") of a block of ", shape.layers));
  }
  // Raw16 goes wherever a block of this shape can go.
  if (absl::Status status = StridesFor(layout, shape, Codec::kRaw16).status(); !status.ok()) return status;
  const uint64_t last_head = uint64_t{request.first_head} + layout.heads;
  if (last_head > shape.heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("heads [", request.first_head, ", ", last_head, ") of a block of ", shape.heads));
  }
  if (absl::Status status = CheckPageAddresses(request); !status.ok()) return status;
  return CheckBlockTable(layout, shape, request);
}

class PlanBuilder {
 public:
  explicit PlanBuilder(const PageLayout& layout) : layout_(layout) {}

  // What `request` adds to the plan.
  void Count(const DecodeRequest& request, const Checked& checked, PlanCounts& counts) const {
    const BlockShape& shape = checked.view.shape();
    const uint64_t layers = request.layers.last - request.layers.first;
    ++counts.requests;
    counts.layers += layers;
    counts.tiles += layers * 2 * shape.heads;
    counts.pages += request.block_table.size();
    counts.decode_blocks += layers * 2 * layout_.heads * Chunks(shape);
    counts.pieces += layers * checked.planes;
    for (uint32_t layer = request.layers.first; layer < request.layers.last; ++layer) {
      for (int plane = 0; plane < checked.planes; ++plane) {
        const uint64_t kibs = xxh3::ChainedKibs(checked.view.Plane(plane, layer).size_bytes);
        counts.sum_blocks += (kibs + kSumsOfBlock - 1) / kSumsOfBlock;
      }
    }
  }

  void Add(const DecodeRequest& request, const Checked& checked) {
    const BlockShape& shape = checked.view.shape();
    blocks_.push_back(TaskOf(request, checked));
    pages_.insert(pages_.end(), request.block_table.begin(), request.block_table.end());
    for (uint32_t layer = request.layers.first; layer < request.layers.last; ++layer) {
      AddLayer(request, checked, layer);
    }
    plan_.written_bytes_ +=
        uint64_t{4} * (request.layers.last - request.layers.first) * layout_.heads * shape.TileElements();
  }

  DecodePlan Finish() {
    plan_.requests_ = blocks_.size();
    plan_.layer_tasks_ = uint32_t(layers_.size());
    plan_.pieces_ = uint32_t(pieces_.size());
    plan_.sum_items_ = uint32_t(sum_items_.size());
    std::vector<WorkItem> items;
    for (const auto& [kernel, work] : items_) {
      plan_.groups_.push_back({std::get<0>(kernel), std::get<1>(kernel), std::get<2>(kernel), uint32_t(items.size()),
                               uint32_t(work.size())});
      items.insert(items.end(), work.begin(), work.end());
    }
    Append(blocks_, plan_.table_);
    plan_.at_layers_ = Append(layers_, plan_.table_);
    plan_.at_items_ = Append(items, plan_.table_);
    plan_.at_pieces_ = Append(pieces_, plan_.table_);
    plan_.at_sum_items_ = Append(sum_items_, plan_.table_);
    plan_.at_pages_ = Append(pages_, plan_.table_);
    plan_.at_tiles_ = AlignSection(blocks_.size() * sizeof(uint32_t));
    plan_.at_sums_ = AlignSection(plan_.at_tiles_ + tiles_ * sizeof(TileEntry));
    plan_.workspace_bytes_ = plan_.at_sums_ + sums_ * sizeof(KibSums);
    return std::move(plan_);
  }

 private:
  BlockTask TaskOf(const DecodeRequest& request, const Checked& checked) const {
    const BlockView& view = checked.view;
    const BlockShape& shape = view.shape();
    BlockTask task{};
    task.bytes = request.device_bytes;
    task.page_stride = checked.strides.page;
    task.token_stride = checked.strides.token;
    task.head_stride = checked.strides.head;
    task.first_page = uint32_t(pages_.size());
    task.page_tokens = layout_.page_tokens;
    task.first_token[0] = request.first_page_token;
    task.first_token[1] = request.first_page_token + TokensOf(layout_, shape).value_first;
    task.heads = shape.heads;
    task.tokens = shape.tokens;
    task.head_dim = shape.head_dim;
    task.first_head = request.first_head;
    task.sinks = HasSinks(view.codec(), view.identity().first_position) ? kSinkTokens : 0;
    task.codec = view.codec();
    task.dtype = shape.dtype;
    task.basis = request.basis;
    task.precision = uint8_t(checked.precision);
    return task;
  }

  void AddLayer(const DecodeRequest& request, const Checked& checked, uint32_t layer) {
    const BlockShape& shape = checked.view.shape();
    uint16_t* const base = request.layer_pages[layer - request.layers.first];
    LayerTask task{};
    for (int kv = 0; kv < 2; ++kv) task.base[kv] = base + checked.strides.first[kv];
    task.block = uint32_t(blocks_.size() - 1);
    task.first_tile = uint32_t(tiles_);
    tiles_ += 2 * shape.heads;
    for (int plane = 0; plane < checked.planes; ++plane) {
      const PlaneEntry entry = checked.view.Plane(plane, layer);
      task.pieces[plane] = {entry.offset, entry.size_bytes};
      AddPiece(entry, task.block);
    }
    const uint32_t chunks = Chunks(shape);
    std::vector<WorkItem>& work = items_[{checked.view.codec(), shape.head_dim, request.basis}];
    for (uint32_t kv = 0; kv < 2; ++kv) {
      for (uint32_t head = 0; head < layout_.heads; ++head) {
        const uint16_t tile = uint16_t(kv * shape.heads + request.first_head + head);
        for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
          work.push_back({uint32_t(layers_.size()), tile, uint16_t(chunk)});
        }
      }
    }
    layers_.push_back(task);
  }

  void AddPiece(const PlaneEntry& entry, uint32_t block) {
    const uint64_t kibs = xxh3::ChainedKibs(entry.size_bytes);
    for (uint64_t kib = 0; kib < kibs; kib += kSumsOfBlock) {
      sum_items_.push_back({uint32_t(pieces_.size()), uint32_t(kib)});
    }
    pieces_.push_back({entry.xxh3, sums_, {entry.offset, entry.size_bytes}, block});
    sums_ += kibs;
  }

  const PageLayout& layout_;
  DecodePlan plan_;
  size_t tiles_ = 0, sums_ = 0;
  std::vector<BlockTask> blocks_;
  std::vector<LayerTask> layers_;
  std::map<std::tuple<Codec, uint32_t, Basis>, std::vector<WorkItem>> items_;
  std::vector<PieceTask> pieces_;
  std::vector<SumItem> sum_items_;
  std::vector<uint32_t> pages_;
};

absl::StatusOr<DecodePlan> DecodePlan::Make(const PageLayout& layout, absl::Span<const DecodeRequest> requests) {
  if (requests.empty()) return absl::InvalidArgumentError("a plan of no requests");
  PlanBuilder builder(layout);
  PageUses uses(layout, requests);
  PlanCounts counts;
  for (size_t i = 0; i < requests.size(); ++i) {
    absl::StatusOr<Checked> checked = Check(layout, requests[i]);
    if (!checked.ok()) return Named(i, checked.status());
    builder.Count(requests[i], *checked, counts);
    if (absl::Status status = CheckLimits(counts); !status.ok()) return status;
    builder.Add(requests[i], *checked);
    uses.Add(i, checked->view.shape());
  }
  if (absl::Status status = uses.Check(); !status.ok()) return status;
  return builder.Finish();
}

DecodeTables DecodePlan::TablesAt(const uint8_t* device_table, uint8_t* device_workspace) const {
  DecodeTables tables{};
  tables.blocks = reinterpret_cast<const BlockTask*>(device_table);
  tables.layers = reinterpret_cast<const LayerTask*>(device_table + at_layers_);
  tables.items = reinterpret_cast<const WorkItem*>(device_table + at_items_);
  tables.pieces = reinterpret_cast<const PieceTask*>(device_table + at_pieces_);
  tables.sum_items = reinterpret_cast<const SumItem*>(device_table + at_sum_items_);
  tables.pages = reinterpret_cast<const uint32_t*>(device_table + at_pages_);
  tables.status = reinterpret_cast<uint32_t*>(device_workspace);
  tables.tiles = reinterpret_cast<TileEntry*>(device_workspace + at_tiles_);
  tables.sums = reinterpret_cast<KibSums*>(device_workspace + at_sums_);
  return tables;
}

absl::Status StatusOfWord(uint32_t word) {
  switch (Refusal(word)) {
    case Refusal::kChecksum:
      return absl::DataLossError("a piece's checksum does not match");
    case Refusal::kTileMode:
      return absl::DataLossError("a tile has a mode that does not exist");
    case Refusal::kSideSize:
      return absl::DataLossError("a side piece's size is not what its tile modes imply");
    case Refusal::kPlaneSize:
      return absl::DataLossError("a plane's size is not what the tile modes imply");
    case Refusal::kChannelScale:
      return absl::DataLossError("a tile has a channel scale above 128");
    case Refusal::kMixedBasis:
      return absl::FailedPreconditionError("a tile is kept raw16, not rotated; a page must not mix two bases");
  }
  return word == 0 ? absl::OkStatus() : absl::InternalError(absl::StrCat("status word ", word));
}

}  // namespace kvist::cuda
