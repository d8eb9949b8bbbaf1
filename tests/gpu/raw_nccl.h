// ncclSend and ncclRecv and nothing else, to measure a transfer against: no deadline but one for the whole, no control.
//
// Threads one.
// Errors  those of NCCL, as Unavailable; DeadlineExceeded.
#ifndef KVIST_TESTS_GPU_RAW_NCCL_H_
#define KVIST_TESTS_GPU_RAW_NCCL_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/device.h"
#include "services/transport/nccl/nccl_library.h"

namespace kvist::testing {

class RawNccl {
 public:
  // Rank 0 sends, rank 1 receives. `max_ctas` 0: as many as the library likes. `device` outlives this.
  static absl::StatusOr<std::unique_ptr<RawNccl>> Open(const NcclLibrary& library, Device* device,
                                                       const nccl::UniqueId& id, int rank, int max_ctas);
  ~RawNccl();

  // Moves the extents so many times, each in a group of its own, and waits for the last.
  absl::Status Move(const std::vector<DeviceExtent>& extents, int times);

 private:
  RawNccl(const NcclLibrary& library, int rank, std::unique_ptr<Stream> stream)
      : library_(library), rank_(rank), stream_(std::move(stream)) {}
  absl::Status Settled(const char* what, int result);

  const NcclLibrary& library_;
  const int rank_;
  const std::unique_ptr<Stream> stream_;
  nccl::Comm* comm_ = nullptr;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_GPU_RAW_NCCL_H_
