#include "services/worker/device_get.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/worker/fetch_job.h"

namespace kvist {
namespace {

constexpr size_t kMostWindowBlocks = std::min(kMostSharedBlocks - 1, kMostTransferKeys);  // a group hears of a miss too
constexpr int kDecodeShare = 8;  // of the time, one part in so many is the device's

uint64_t LandingBytes(uint64_t size_bytes) {
  return (size_bytes + kLandingAlignment - 1) / kLandingAlignment * kLandingAlignment;
}

}  // namespace

DeviceGet::DeviceGet(DeviceReaderParts* parts, absl::Span<const Key> chain, BlockRange range, const DevicePages& pages,
                     FanOut* group)
    : parts_(parts),
      core_(parts->core),
      chain_(chain),
      range_(range),
      pages_(pages),
      deadline_(core_->Deadline()),
      fetch_by_(deadline_ - (deadline_ - core_->Now()) / kDecodeShare),
      share_by_(deadline_ - (deadline_ - fetch_by_) / 2),
      group_(group),
      at_(range.first),
      shared_(range.first),
      limit_(kMostWindowBlocks) {}

absl::StatusOr<DeviceGetResult> DeviceGet::Run() {
  absl::Status fault;
  while (at_ < range_.last && !over_ && fault.ok()) {
    std::shared_ptr<DeviceLane> lane = parts_->lanes->Take(fetch_by_);
    if (lane == nullptr) {
      Missed(v1::MISS_REASON_DEADLINE, "no room on the device came free in time");
    } else {
      fault = RunWindow(std::move(lane));
    }
  }
  if (group_ != nullptr && !told_ && shared_ < range_.last) Give({}, nullptr, v1::MISS_REASON_DEADLINE);
  if (!fault.ok()) return fault;
  return Conclude();
}

absl::Status DeviceGet::RunWindow(std::shared_ptr<DeviceLane> lane) {
  absl::StatusOr<Window> window = Fetch({at_, std::min(range_.last, at_ + std::min(limit_, WindowBlocks()))}, lane);
  if (!window.ok()) return window.status();
  if (group_ != nullptr) LimitToGroup(&*window);
  std::vector<DeviceBlock>& blocks = window->blocks;
  RenewPins(lane, absl::MakeSpan(blocks));
  const size_t fetched = blocks.size(), before = at_;
  DeviceDecode decode({core_, parts_->lanes.get(), parts_->options.decoder}, lane, pages_, deadline_);
  if (fetched > 0) {
    if (absl::Status prepared = decode.Prepare(&blocks); !prepared.ok()) return prepared;
  }
  const bool more = window->more || blocks.size() < fetched;  // the lane had no room for the rest
  const BlockVerdict end = EndOf(*window, more);
  if (group_ != nullptr) Give(blocks, lane, end.miss);
  if (absl::Status decoded = Decode(&decode, &blocks); !decoded.ok()) return decoded;
  if (over_) return absl::OkStatus();
  if (end.miss != v1::MISS_REASON_UNSPECIFIED) {
    Missed(end.miss, end.why, window->fetched.miss_node);
  } else if (at_ == before && limit_ == 1) {
    Missed(v1::MISS_REASON_OVERLOADED, "the block does not fit into this worker's memory on the device");
  } else if (more) {
    limit_ = std::max<size_t>(1, std::min(limit_, WindowBlocks()) / 2);
  }
  return absl::OkStatus();
}

// What ends the run with this window, as far as is known before its decode.
BlockVerdict DeviceGet::EndOf(const Window& window, bool more) {
  for (const DeviceBlock& block : window.blocks) {
    if (!block.good()) return block.verdict;
  }
  return more ? BlockVerdict() : BlockVerdict{window.fetched.miss, window.fetched.why};
}

absl::StatusOr<DeviceGet::Window> DeviceGet::Fetch(BlockRange range, const std::shared_ptr<DeviceLane>& lane) {
  const auto landing = std::make_shared<DeviceLanding>(parts_->staging, lane);
  const auto way = std::make_shared<LandingWay>(parts_->ways, chain_, landing);
  absl::StatusOr<GetResult> fetched = std::make_shared<FetchJob>(core_, chain_, range, landing, fetch_by_, way)->Run();
  if (!fetched.ok()) return fetched.status();
  const absl::Status trouble = landing->trouble();
  if (absl::IsUnavailable(trouble)) return trouble;
  Window window;
  window.fetched = *std::move(fetched);
  const bool not_taken = window.fetched.miss == v1::MISS_REASON_OVERLOADED;
  window.more = not_taken && trouble.ok() && landing->full();
  if (not_taken && !trouble.ok()) {
    window.fetched.miss = v1::MISS_REASON_DEADLINE;
    window.fetched.why = std::string(trouble.message());
  }
  result_.fetched_bytes += window.fetched.fetched_bytes;
  result_.fetch_time += window.fetched.fetch_time;
  result_.decode_time += window.fetched.decode_time;
  std::map<size_t, LandedBlock> landed = landing->Blocks();
  for (size_t block = range.first; block < range.first + window.fetched.blocks; ++block) {
    window.blocks.push_back({block, chain_[block], std::move(landed.at(block)), {}, {}});
  }
  return window;
}

// To what the others can take: blocks that we read in a node's memory fill their landings.
void DeviceGet::LimitToGroup(Window* window) const {
  uint64_t total = 0;
  for (size_t i = 0; i < window->blocks.size(); ++i) {
    total += LandingBytes(window->blocks[i].landed.size_bytes());
    if (total <= parts_->options.landing_bytes) continue;
    window->blocks.resize(i);
    window->more = true;
  }
}

// Of blocks that had to wait for others for too long: another question costs nothing, and they are mostly still there.
void DeviceGet::RenewPins(const std::shared_ptr<DeviceLane>& lane, absl::Span<DeviceBlock> blocks) {
  std::map<std::shared_ptr<NodeLink>, std::vector<DeviceBlock*>> expired;
  for (DeviceBlock& block : blocks) {
    const LandedBlock& landed = block.landed;
    if (landed.ipc != nullptr && !landed.ipc->StillHeld().ok()) expired[landed.node].push_back(&block);
  }
  for (const auto& [node, of_node] : expired) {
    std::vector<Key> keys;
    std::vector<size_t> numbers;
    for (const DeviceBlock* block : of_node) {
      keys.push_back(block->key);
      numbers.push_back(block->block);
    }
    DeviceLanding landing(parts_->staging, lane);
    (void)parts_->ways->Fetch(node, keys, numbers, &landing, share_by_);
    std::map<size_t, LandedBlock> renewed = landing.Blocks();
    for (DeviceBlock* block : of_node) {
      const auto found = renewed.find(block->block);
      if (found != renewed.end()) block->landed = std::move(found->second);
    }
  }
}

size_t DeviceGet::WindowBlocks() const {
  const uint64_t likely = LandingBytes(core_->reserve_bytes);
  const uint64_t prefixes = parts_->options.pinned_bytes / 2 / DeviceDecode::PrefixBytes(core_->shape);
  return std::clamp<uint64_t>(std::min(parts_->options.landing_bytes / likely, prefixes), 1, kMostWindowBlocks);
}

absl::Status DeviceGet::Decode(DeviceDecode* decode, std::vector<DeviceBlock>* blocks) {
  const absl::Status decoded = decode->Decode(blocks);
  if (decode->writing() != nullptr) {
    ++parts_->late;
    result_.writing = decode->writing();
  }
  if (!decoded.ok()) return decoded;
  for (const DeviceBlock& block : *blocks) {
    if (!block.good()) {
      Missed(block.verdict.miss, block.verdict.why, NodeName(block));
      break;
    }
    ++at_;
    if (block.landed.way == BlockWay::kIpc) ++result_.ipc_blocks;
    if (block.landed.way == BlockWay::kNccl) ++result_.nccl_blocks;
    if (block.landed.way == BlockWay::kGrpc) ++result_.grpc_blocks;
  }
  return absl::OkStatus();
}

// The good ones, which are leading; and the miss that the run ends with, if there is one.
void DeviceGet::Give(absl::Span<const DeviceBlock> blocks, const std::shared_ptr<DeviceLane>& lane,
                     v1::MissReason end) {
  struct Held {
    std::shared_ptr<DeviceLane> lane;
    std::vector<LandedBlock> blocks;
  };
  auto held = std::make_shared<Held>();
  held->lane = lane;
  Fetched fetched;
  for (const DeviceBlock& block : blocks) {
    if (!block.good()) break;
    fetched.blocks.push_back({v1::MISS_REASON_UNSPECIFIED, false, block.landed.extents[0]});
    held->blocks.push_back(block.landed);
  }
  shared_ += fetched.blocks.size();
  told_ = end != v1::MISS_REASON_UNSPECIFIED;
  if (told_) fetched.blocks.push_back({end, false, {}});
  if (fetched.blocks.empty()) return;
  fetched.hold = std::move(held);
  result_.group = group_->Give(fetched, share_by_);
  if (!result_.group.ok()) group_ = nullptr;
}

absl::StatusOr<DeviceGetResult> DeviceGet::Take() {
  while (shared_ < range_.last && !told_ && group_ != nullptr) {
    std::shared_ptr<DeviceLane> lane = parts_->lanes->Take(fetch_by_);
    if (absl::Status taken = TakeOnce(std::move(lane)); !taken.ok()) return taken;
  }
  return Conclude();
}

absl::Status DeviceGet::TakeOnce(std::shared_ptr<DeviceLane> lane) {
  const TakeLanding take = [&lane](uint64_t size_bytes) -> absl::StatusOr<Landing> {
    const std::optional<DeviceAddress> at = lane == nullptr ? std::nullopt : lane->Take(size_bytes);
    if (!at) return absl::ResourceExhaustedError("no room on the device for what the group has fetched");
    return Landing{*at, lane};
  };
  absl::StatusOr<Fetched> taken = group_->Take(take, share_by_);
  if (taken.ok() && (taken->blocks.empty() || taken->blocks.size() > range_.last - shared_)) {
    taken = absl::DataLossError("the group is out of step: its ranks were called for different blocks");
  }
  if (!taken.ok()) {
    group_ = nullptr;
    result_.group = taken.status();
    if (!over_) Missed(MissReasonOf(taken.status()), std::string(taken.status().message()));
    return absl::OkStatus();
  }
  std::vector<DeviceBlock> blocks;
  for (const FetchedBlock& block : taken->blocks) {
    told_ = block.extent.size_bytes == 0;
    if (told_) break;
    blocks.push_back(
        {shared_, chain_[shared_], {{block.extent}, BlockWay::kGroup, nullptr, nullptr, taken->hold}, {}, {}});
    ++shared_;
    result_.fetched_bytes += block.extent.size_bytes;
  }
  if (over_) return absl::OkStatus();  // only to stay in step
  if (!blocks.empty()) {
    DeviceDecode decode({core_, parts_->lanes.get(), parts_->options.decoder}, lane, pages_, deadline_);
    if (absl::Status prepared = decode.Prepare(&blocks); !prepared.ok()) return prepared;
    if (absl::Status decoded = Decode(&decode, &blocks); !decoded.ok()) return decoded;
  }
  if (!over_ && at_ < shared_)
    Missed(v1::MISS_REASON_OVERLOADED, "this rank had no room for what the group has fetched");
  if (told_ && !over_) Missed(taken->blocks.back().miss, "rank 0 of the group got no more");
  return absl::OkStatus();
}

void DeviceGet::Missed(v1::MissReason miss, std::string why, std::string node) {
  over_ = true;
  result_.miss = miss;
  result_.why = std::move(why);
  result_.miss_node = std::move(node);
}

std::string DeviceGet::NodeName(const DeviceBlock& block) const {
  return block.landed.node == nullptr ? "" : block.landed.node->id();
}

DeviceGetResult DeviceGet::Conclude() {
  const BlockShape& shape = core_->shape;
  result_.blocks = at_ - range_.first;
  result_.plain_bytes = uint64_t{4} * result_.blocks * shape.layers * pages_.layout.heads * shape.TileElements();
  return std::move(result_);
}

}  // namespace kvist
