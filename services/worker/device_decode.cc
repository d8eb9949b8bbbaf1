#include "services/worker/device_decode.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvist {
namespace {

constexpr uint64_t kSection = 64;

uint64_t Aligned(uint64_t size_bytes) { return (size_bytes + kSection - 1) / kSection * kSection; }

// Why a block of the right identity cannot be planned: the pages were checked before.
BlockVerdict Refused(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
      return {v1::MISS_REASON_CHECKSUM, std::string(status.message())};
    case absl::StatusCode::kUnimplemented:
      return {v1::MISS_REASON_IDENTITY_MISMATCH, std::string(status.message())};
    default:
      return {v1::MISS_REASON_PRECISION, std::string(status.message())};
  }
}

size_t LeadingGood(absl::Span<const DeviceBlock> blocks) {
  return std::find_if(blocks.begin(), blocks.end(), [](const DeviceBlock& block) { return !block.good(); }) -
         blocks.begin();
}

void SetAll(absl::Span<DeviceBlock> blocks, const BlockVerdict& verdict) {
  for (DeviceBlock& block : blocks) block.verdict = verdict;
}

const BlockVerdict& NotInTime() {
  static const auto* const verdict = new BlockVerdict{v1::MISS_REASON_DEADLINE, "the device was not done in time"};
  return *verdict;
}

}  // namespace

uint64_t DeviceDecode::PrefixBytes(const BlockShape& shape) {
  return Aligned(kHeaderBytes + kMaxPlanes * shape.layers * kPlaneEntryBytes);
}

absl::Status DeviceDecode::Prepare(std::vector<DeviceBlock>* blocks) {
  const uint64_t prefix_bytes = PrefixBytes(uses_.core->shape);
  blocks->resize(std::min<uint64_t>(blocks->size(), lane_->pinned().size() / 2 / prefix_bytes));
  prefixes_bytes_ = blocks->size() * prefix_bytes;
  const absl::StatusOr<size_t> enqueued = EnqueuePrepare(absl::MakeSpan(*blocks));
  const absl::Status done = Finish(enqueued.status(), *blocks, /*writes_pages=*/false);
  if (absl::IsDeadlineExceeded(done)) {
    SetAll(absl::MakeSpan(*blocks), NotInTime());
    return absl::OkStatus();
  }
  if (!done.ok()) return done;
  blocks->resize(*enqueued);
  for (DeviceBlock& block : *blocks) {
    block.verdict = CheckPrefix(block.prefix, block.landed.size_bytes(), uses_.core->Expected(block.key, block.block));
    if (!block.good()) CheckPinAndReport(&block);
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> DeviceDecode::EnqueuePrepare(absl::Span<DeviceBlock> blocks) {
  const uint64_t prefix_bytes = PrefixBytes(uses_.core->shape);
  for (size_t i = 0; i < blocks.size(); ++i) {
    LandedBlock& landed = blocks[i].landed;
    const absl::StatusOr<bool> gathered = Gather(&landed);
    if (!gathered.ok()) return gathered.status();
    if (!*gathered) return i;
    const absl::Span<uint8_t> prefix =
        lane_->pinned().subspan(i * prefix_bytes, std::min(prefix_bytes, landed.size_bytes()));
    absl::Status copied = lane_->stream().CopyToHost(prefix, landed.extents[0].address);
    if (!copied.ok()) return copied;
    blocks[i].prefix = prefix;
  }
  return blocks.size();
}

absl::StatusOr<bool> DeviceDecode::Gather(LandedBlock* landed) {
  if (landed->extents.size() == 1) return true;
  const uint64_t size_bytes = landed->size_bytes();
  const std::optional<DeviceAddress> room = lane_->Take(size_bytes);
  if (!room) return false;
  DeviceAddress at = *room;
  for (const DeviceExtent& extent : landed->extents) {
    absl::Status copied = lane_->stream().CopyOnDevice(at, extent.address, extent.size_bytes);
    if (!copied.ok()) return copied;
    at = at + extent.size_bytes;
  }
  landed->extents = {{*room, size_bytes}};
  return true;
}

absl::Status DeviceDecode::Decode(std::vector<DeviceBlock>* blocks) {
  size_t most = blocks->size();  // in one launch
  for (size_t first = 0; first < LeadingGood(*blocks);) {
    const absl::Span<DeviceBlock> some =
        absl::MakeSpan(*blocks).subspan(first, std::min(most, LeadingGood(*blocks) - first));
    const absl::StatusOr<cuda::DecodePlan> plan = Plan(some);
    if (!plan.ok() && RefuseAny(some)) continue;
    if (!plan.ok() || !Fits(*plan)) {
      if (some.size() == 1) some[0].verdict = {v1::MISS_REASON_OVERLOADED, "the block's tables have no room"};
      most = some.size() / 2;
      continue;
    }
    const absl::Status done = Finish(Launch(*plan), some, /*writes_pages=*/true);
    if (absl::IsDeadlineExceeded(done)) {
      SetAll(some, NotInTime());
      return absl::OkStatus();
    }
    if (!done.ok()) return done;
    words_.resize(some.size());
    std::memcpy(words_.data(), WordBytes(*plan).data(), some.size() * sizeof(uint32_t));
    Judge(some);
    first += some.size();
  }
  return absl::OkStatus();
}

cuda::DecodeRequest DeviceDecode::RequestOf(const DeviceBlock& block) const {
  cuda::DecodeRequest request = RequestFor(pages_, uses_.core->shape, block.block);
  request.device_bytes = static_cast<const uint8_t*>(block.landed.extents[0].address.pointer());
  request.device_size_bytes = block.landed.size_bytes();
  request.prefix = block.prefix;
  return request;
}

absl::StatusOr<cuda::DecodePlan> DeviceDecode::Plan(absl::Span<const DeviceBlock> blocks) const {
  std::vector<cuda::DecodeRequest> requests;
  for (const DeviceBlock& block : blocks) requests.push_back(RequestOf(block));
  return cuda::DecodePlan::Make(pages_.layout, requests);
}

// A plan fails as one: looks for those that it fails for.
bool DeviceDecode::RefuseAny(absl::Span<DeviceBlock> blocks) const {
  bool any = false;
  for (DeviceBlock& block : blocks) {
    const absl::Status alone = Plan({&block, 1}).status();
    if (alone.ok()) continue;
    block.verdict = Refused(alone);
    any = true;
  }
  return any;
}

absl::Span<uint8_t> DeviceDecode::WordBytes(const cuda::DecodePlan& plan) const {
  return TableRoom().subspan(Aligned(plan.table_bytes().size()), plan.requests() * sizeof(uint32_t));
}

bool DeviceDecode::Fits(const cuda::DecodePlan& plan) const {
  const uint64_t table = Aligned(plan.table_bytes().size());
  return table + plan.requests() * sizeof(uint32_t) <= TableRoom().size() &&
         table + plan.workspace_bytes() <= lane_->scratch().size_bytes;
}

absl::Status DeviceDecode::Launch(const cuda::DecodePlan& plan) {
  Stream& stream = lane_->stream();
  const absl::Span<uint8_t> table = TableRoom().first(plan.table_bytes().size());
  std::memcpy(table.data(), plan.table_bytes().data(), table.size());
  const DeviceAddress at = lane_->scratch().address, workspace = at + Aligned(table.size());
  if (absl::Status status = stream.CopyToDevice(at, table); !status.ok()) return status;
  if (absl::Status status = uses_.decoder->Launch(plan, at, workspace, stream); !status.ok()) return status;
  return stream.CopyToHost(WordBytes(plan), workspace);
}

absl::Status DeviceDecode::Finish(const absl::Status& enqueued, absl::Span<const DeviceBlock> blocks,
                                  bool writes_pages) {
  absl::StatusOr<std::unique_ptr<DeviceEvent>> recorded = lane_->stream().Record();
  const std::shared_ptr<DeviceEvent> event = recorded.ok() ? *std::move(recorded) : nullptr;
  const absl::Status done = recorded.ok() ? Await(*event, deadline_ - uses_.core->Now()) : recorded.status();
  if (done.ok()) return enqueued;
  if (writes_pages) writing_ = event;
  struct Held {
    std::shared_ptr<DeviceLane> lane;
    std::vector<LandedBlock> blocks;
  };
  auto held = std::make_shared<Held>();
  held->lane = lane_;
  for (const DeviceBlock& block : blocks) held->blocks.push_back(block.landed);
  uses_.lanes->Keep(event, std::move(held));
  return enqueued.ok() ? done : enqueued;
}

void DeviceDecode::Judge(absl::Span<DeviceBlock> blocks) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    const absl::Status verified = cuda::StatusOfWord(words_[i]);
    if (!verified.ok()) blocks[i].verdict = Refused(verified);
    CheckPinAndReport(&blocks[i]);
  }
}

// What was read of a node's memory says something about the block only if it was the block's all the while.
void DeviceDecode::CheckPinAndReport(DeviceBlock* block) {
  const LandedBlock& landed = block->landed;
  if (landed.ipc != nullptr) {
    if (const absl::Status held = landed.ipc->StillHeld(); !held.ok()) {
      block->verdict = {MissReasonOf(held), std::string(held.message())};
      return;
    }
  }
  if (block->verdict.miss == v1::MISS_REASON_CHECKSUM && landed.node != nullptr) {
    uses_.core->ReportDamage(landed.node, block->key);
  }
}

}  // namespace kvist
