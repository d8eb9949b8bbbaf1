#include "services/worker/device_ways.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "services/transport/device_ipc/device_ipc_server.h"
#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

constexpr size_t kErrandThreads = 2;

bool IsOurs(const Device& device, const std::string& uuid) {
  const auto& ours = device.description().uuid;
  return std::equal(uuid.begin(), uuid.end(), ours.begin(), ours.end(),
                    [](char theirs, uint8_t our) { return static_cast<uint8_t>(theirs) == our; });
}

DirectBlock Missed(v1::MissReason miss) { return {DirectBlock::Outcome::kMiss, miss, 0}; }
DirectBlock Here(uint64_t received_bytes) {
  return {DirectBlock::Outcome::kHere, v1::MISS_REASON_UNSPECIFIED, received_bytes};
}

}  // namespace

DeviceWays::DeviceWays(DeviceWaysOptions options)
    : options_(std::move(options)),
      door_(options_.runtime),
      errands_(std::make_unique<ThreadPool>(options_.runtime, kErrandThreads)) {}

void DeviceWays::Stop() {
  door_.Close();
  {
    std::lock_guard lock(mutex_);
    ways_.clear();
  }
  errands_ = nullptr;  // after the links, which submit to it
}

DeviceWays::Way& DeviceWays::WayOf(const std::shared_ptr<NodeLink>& node) {
  Way& way = ways_[node.get()];
  if (way.node.lock() != node) {
    way = Way();
    way.node = node;
    std::erase_if(ways_, [](const auto& entry) { return entry.second.node.expired(); });
  }
  return way;
}

bool DeviceWays::LeadsTo(const std::shared_ptr<NodeLink>& node) {
  const absl::Time now = options_.runtime->Now();
  std::lock_guard lock(mutex_);
  const Way& way = WayOf(node);
  return way.state == State::kOpen || (way.state == State::kUnknown && now >= way.not_before);
}

void DeviceWays::Failed(const std::shared_ptr<NodeLink>& node) {
  Way& way = WayOf(node);
  way.state = State::kUnknown;
  way.ipc = nullptr;
  way.nccl = nullptr;
  const absl::Duration pause = std::clamp(way.pause, options_.first_pause, options_.longest_pause);
  way.not_before = options_.runtime->Now() + pause;
  way.pause = 2 * pause;
}

DeviceWays::Way DeviceWays::Open(const std::shared_ptr<NodeLink>& node, absl::Time deadline) {
  {
    std::lock_guard lock(mutex_);
    Way& way = WayOf(node);
    if (way.state != State::kUnknown || options_.runtime->Now() < way.not_before) return way;
    way.state = State::kAsking;
  }
  absl::StatusOr<Way> asked = Ask(*node, deadline);
  std::lock_guard lock(mutex_);
  if (!asked.ok()) {
    Failed(node);
    return Way();
  }
  Way& way = WayOf(node);
  way.state = asked->state;
  way.ipc = asked->ipc;
  way.nccl = asked->nccl;
  return way;
}

absl::StatusOr<DeviceWays::Way> DeviceWays::Ask(NodeLink& node, absl::Time deadline) {
  const absl::StatusOr<v1::ServerInfoResponse> info =
      node.Ask<v1::ServerInfoResponse>([&](Channel& channel) { return channel.ServerInfo(deadline); });
  if (!info.ok()) return info.status();
  const v1::DeviceInfo& device = info->device();
  Way way;
  way.state = State::kNone;
  absl::Status refused;
  if (!device.ipc_socket().empty() && IsOurs(*options_.device, device.uuid())) {
    absl::StatusOr<std::unique_ptr<DeviceIpcClient>> ipc =
        DeviceIpcClient::Connect(device.ipc_socket(), options_.device.get(), deadline - options_.runtime->Now());
    if (ipc.ok()) {
      way.state = State::kOpen;
      way.ipc = *std::move(ipc);
      return way;
    }
    refused = ipc.status();  // the socket of another container's, perhaps: NCCL may still lead there
  }
  Communicators* const communicators = options_.communicators;
  if (communicators != nullptr && device.nccl_version() != 0 &&
      device.nccl_version() == static_cast<uint32_t>(communicators->library().version)) {
    way.state = State::kOpen;
    way.nccl = std::make_shared<DeviceLink>(communicators, options_.connect_control(node.node().address.ToString()),
                                            errands_.get(), options_.link);
    return way;
  }
  if (!refused.ok()) return refused;
  return way;
}

std::vector<DirectBlock> DeviceWays::Fetch(const std::shared_ptr<NodeLink>& node, absl::Span<const Key> keys,
                                           absl::Span<const size_t> blocks, DeviceLanding* landing,
                                           absl::Time deadline) {
  std::vector<DirectBlock> elsewhere(blocks.size());
  if (!door_.Enter()) return elsewhere;
  const Way way = Open(node, deadline);
  if (way.ipc != nullptr) {
    elsewhere = FetchOverIpc(node, *way.ipc, keys, blocks, landing, deadline);
  } else if (way.nccl != nullptr) {
    elsewhere = FetchOverNccl(node, *way.nccl, keys, blocks, landing, deadline);
  }
  door_.Leave();
  return elsewhere;
}

std::vector<DirectBlock> DeviceWays::FetchOverIpc(const std::shared_ptr<NodeLink>& node, DeviceIpcClient& ipc,
                                                  absl::Span<const Key> keys, absl::Span<const size_t> blocks,
                                                  DeviceLanding* landing, absl::Time deadline) {
  std::vector<DirectBlock> came(blocks.size());
  const size_t asked = std::min(keys.size(), kMaxDeviceGetKeys);
  absl::StatusOr<std::vector<DeviceIpcLookup>> lookups = ipc.Get(keys.first(asked), deadline - options_.runtime->Now());
  {
    std::lock_guard lock(mutex_);
    if (lookups.ok()) {
      WayOf(node).pause = absl::ZeroDuration();
    } else if (!absl::IsDeadlineExceeded(lookups.status()) && WayOf(node).ipc.get() == &ipc) {
      Failed(node);
    }
  }
  if (!lookups.ok()) return came;
  for (size_t i = 0; i < asked; ++i) {
    DeviceIpcLookup& lookup = (*lookups)[i];
    if (lookup.block == nullptr) {
      if (!lookup.in_host_memory) came[i] = Missed(ToWire(lookup.miss));
      continue;
    }
    LandedBlock landed;
    landed.extents.assign(lookup.block->extents().begin(), lookup.block->extents().end());
    landed.way = BlockWay::kIpc;
    landed.node = node;
    landed.ipc = std::move(lookup.block);
    landing->Add(blocks[i], std::move(landed));
    came[i] = Here(/*received_bytes=*/0);
  }
  return came;
}

std::vector<DirectBlock> DeviceWays::FetchOverNccl(const std::shared_ptr<NodeLink>& node, DeviceLink& nccl,
                                                   absl::Span<const Key> keys, absl::Span<const size_t> blocks,
                                                   DeviceLanding* landing, absl::Time deadline) {
  std::vector<DirectBlock> came(blocks.size());
  const absl::StatusOr<Fetched> fetched = nccl.Fetch(
      keys, [landing](uint64_t size_bytes) { return landing->TakeRoom(size_bytes); }, deadline);
  if (!fetched.ok()) return came;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const FetchedBlock& block = fetched->blocks[i];
    if (block.extent.size_bytes > 0) {
      landing->Add(blocks[i], {{block.extent}, BlockWay::kNccl, node, nullptr, fetched->hold});
      came[i] = Here(block.extent.size_bytes);
    } else if (!block.elsewhere) {
      came[i] = Missed(block.miss);
    }
  }
  return came;
}

}  // namespace kvist
