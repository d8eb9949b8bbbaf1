#include "tests/gpu/raw_nccl.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace kvist::testing {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(30);

}  // namespace

absl::StatusOr<std::unique_ptr<RawNccl>> RawNccl::Open(const NcclLibrary& library, Device* device,
                                                       const nccl::UniqueId& id, int rank, int max_ctas) {
  absl::StatusOr<std::unique_ptr<Stream>> stream = device->NewStream();
  if (!stream.ok()) return stream.status();
  std::unique_ptr<RawNccl> raw(new RawNccl(library, rank, *std::move(stream)));
  nccl::Config config;
  config.blocking = 0;
  if (max_ctas > 0) {
    config.min_ctas = 1;
    config.max_ctas = max_ctas;
  }
  const int result = library.comm_init_rank_config(&raw->comm_, 2, id, rank, &config);
  if (absl::Status status = raw->Settled("ncclCommInitRankConfig", result); !status.ok()) return status;
  return raw;
}

RawNccl::~RawNccl() {
  if (comm_ != nullptr) library_.comm_abort(comm_);
}

absl::Status RawNccl::Move(const std::vector<DeviceExtent>& extents, int times) {
  void* const stream = stream_->native();
  for (int time = 0; time < times; ++time) {
    int result = library_.group_start();
    for (const DeviceExtent& extent : extents) {
      if (result != nccl::kSuccess && result != nccl::kInProgress) break;
      void* const at = extent.address.pointer();
      result = rank_ == 0 ? library_.send(at, extent.size_bytes, nccl::kUint8, 1, comm_, stream)
                          : library_.recv(at, extent.size_bytes, nccl::kUint8, 0, comm_, stream);
    }
    const int ended = library_.group_end();
    if (result == nccl::kSuccess || result == nccl::kInProgress) result = ended;
    if (absl::Status status = Settled("a group", result); !status.ok()) return status;
  }
  const absl::StatusOr<std::unique_ptr<DeviceEvent>> event = stream_->Record();
  return event.ok() ? Await(**event, kLimit) : event.status();
}

// Kernels of a communicator that does not block are launched in the background.
absl::Status RawNccl::Settled(const char* what, int result) {
  const absl::Time end = absl::Now() + kLimit;
  while (result == nccl::kInProgress || result == nccl::kSuccess) {
    int state = nccl::kSuccess;
    result = library_.comm_get_async_error(comm_, &state);
    if (result != nccl::kSuccess) break;
    if (state == nccl::kSuccess) return absl::OkStatus();
    result = state;
    if (absl::Now() > end) return absl::DeadlineExceededError(absl::StrCat("raw NCCL: ", what));
  }
  return absl::UnavailableError(absl::StrCat("raw NCCL: ", what, ": ", library_.get_error_string(result)));
}

}  // namespace kvist::testing
