#include "services/worker/device_reader.h"

#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/transport/nccl/transfer_sessions.h"
#include "services/worker/device_get.h"

namespace kvist {
namespace {

constexpr size_t kMostGets = 64;
constexpr uint64_t kLeastTables = uint64_t{16} << 10;  // beside what grows with a block

absl::Status Validate(const DeviceReaderOptions& options, const ClientCore& core) {
  std::vector<std::string> problems;
  const auto require = [&](bool right, const std::string& otherwise) {
    if (!right) problems.push_back(otherwise);
  };
  const uint64_t block = core.buffers.buffer_bytes(), threads = core.options.threads;
  const uint64_t prefix = DeviceDecode::PrefixBytes(core.shape);
  require(options.device != nullptr, "device is missing");
  require(options.decoder != nullptr, "decoder is missing");
  require(options.communicators == nullptr || options.connect_control != nullptr,
          "connect_control is missing: NCCL needs it");
  require(options.communicators == nullptr || options.communicators->device() == options.device.get(),
          "the communicators are on another device");
  require(options.gets >= 1 && options.gets <= kMostGets, absl::StrCat("gets ", options.gets, " is not 1 to 64"));
  const auto at_least = [&](const char* name, uint64_t bytes, uint64_t least) {
    require(bytes >= least, absl::StrCat(name, " ", bytes, " is less than ", least));
  };
  at_least("landing_bytes", options.landing_bytes, 2 * (block + kLandingAlignment));
  at_least("scratch_bytes", options.scratch_bytes, block / 8 + kLeastTables);
  at_least("pinned_bytes", options.pinned_bytes, 2 * prefix + block / 32 + kLeastTables);
  at_least("staging_bytes", options.staging_bytes, threads * Allocator::RoundUp(block));
  require(options.landing_bytes % kLandingAlignment == 0,
          absl::StrCat("landing_bytes ", options.landing_bytes, " is no multiple of ", kLandingAlignment));
  require(options.copy_deadline > absl::ZeroDuration(), "copy_deadline must be positive");
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

DeviceWaysOptions WaysOptions(const DeviceReaderOptions& options, Runtime* runtime) {
  DeviceWaysOptions ways;
  ways.runtime = runtime;
  ways.device = options.device;
  ways.communicators = options.communicators;
  ways.connect_control = options.connect_control;
  ways.link.host_id = HostId();
  ways.link.worker_id = absl::StrCat(ways.link.host_id, "/", getpid(), "/", runtime->Random());
  return ways;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceReader>> DeviceReader::Create(Client* client, const DeviceReaderOptions& options) {
  ClientCore* const core = client->core_.get();
  if (absl::Status valid = Validate(options, *core); !valid.ok()) return valid;
  auto parts = std::make_shared<DeviceReaderParts>();
  parts->core = core;
  parts->options = options;
  absl::StatusOr<std::unique_ptr<Staging>> staging =
      Staging::Create(options.device, Allocator::RoundUp(options.staging_bytes), options.copy_deadline);
  if (!staging.ok()) return staging.status();
  parts->staging = *std::move(staging);
  absl::StatusOr<std::unique_ptr<DeviceLanes>> lanes =
      DeviceLanes::Create(options.device, core->runtime(), options.gets,
                          {options.landing_bytes, options.scratch_bytes, options.pinned_bytes});
  if (!lanes.ok()) return lanes.status();
  parts->lanes = *std::move(lanes);
  parts->ways = std::make_shared<DeviceWays>(WaysOptions(options, core->runtime()));
  return std::unique_ptr<DeviceReader>(new DeviceReader(std::move(parts)));
}

DeviceReader::DeviceReader(std::shared_ptr<DeviceReaderParts> parts) : parts_(std::move(parts)) {}
DeviceReader::~DeviceReader() { parts_->ways->Stop(); }

absl::Status DeviceReader::CheckCall(absl::Span<const Key> chain, BlockRange range, const DevicePages& pages) const {
  if (range.first > range.last || range.last > chain.size()) {
    return absl::InvalidArgumentError(absl::StrCat("blocks [", range.first, ", ", range.last,
                                                   ") are not within the prompt's ", chain.size(), " full blocks"));
  }
  return CheckDevicePages(pages, parts_->core->shape, range.first, range.last);
}

absl::StatusOr<DeviceGetResult> DeviceReader::Get(absl::Span<const Key> chain, BlockRange range,
                                                  const DevicePages& pages, FanOut* group) {
  if (absl::Status right = CheckCall(chain, range, pages); !right.ok()) return right;
  return Counted(DeviceGet(parts_.get(), chain, range, pages, group).Run(), /*from_group=*/false);
}

absl::StatusOr<DeviceGetResult> DeviceReader::Take(absl::Span<const Key> chain, BlockRange range,
                                                   const DevicePages& pages, FanOut* group) {
  if (absl::Status right = CheckCall(chain, range, pages); !right.ok()) return right;
  if (group == nullptr) return absl::InvalidArgumentError("a Take without a group");
  return Counted(DeviceGet(parts_.get(), chain, range, pages, group).Take(), /*from_group=*/true);
}

absl::StatusOr<DeviceGetResult> DeviceReader::Counted(absl::StatusOr<DeviceGetResult> result, bool from_group) {
  if (!result.ok()) return result;
  parts_->core->CountGet(*result);
  parts_->ipc_blocks += result->ipc_blocks;
  parts_->nccl_blocks += result->nccl_blocks;
  parts_->grpc_blocks += result->grpc_blocks;
  if (from_group) parts_->group_blocks += result->blocks;
  parts_->misses += result->miss != v1::MISS_REASON_UNSPECIFIED;
  return result;
}

DeviceReaderCounters DeviceReader::counters() const {
  return {parts_->ipc_blocks,   parts_->nccl_blocks, parts_->grpc_blocks,
          parts_->group_blocks, parts_->misses,      parts_->late};
}

}  // namespace kvist
