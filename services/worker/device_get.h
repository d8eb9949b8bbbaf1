// One Get of a DeviceReader, window by window: so many blocks as a lane has room for are fetched by a FetchJob, given to
// the group if there is one, and decoded. Internal to services/worker.
//
// Group    rank 0 gives the blocks of each window in turn, until it has given the last of the range or a miss. The others
//          take as often, also when they want no more themselves: all ranks stay in step.
// Threads  one.
#ifndef KVIST_SERVICES_WORKER_DEVICE_GET_H_
#define KVIST_SERVICES_WORKER_DEVICE_GET_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/staging.h"
#include "services/worker/client_core.h"
#include "services/worker/device_decode.h"
#include "services/worker/device_landing.h"
#include "services/worker/device_lanes.h"
#include "services/worker/device_reader.h"
#include "services/worker/device_ways.h"

namespace kvist {

// What the calls of a reader share; jobs that end after their Get hold the staging, the lanes and the ways too.
struct DeviceReaderParts {
  ClientCore* core = nullptr;
  DeviceReaderOptions options;
  std::shared_ptr<Staging> staging;
  std::unique_ptr<DeviceLanes> lanes;
  std::shared_ptr<DeviceWays> ways;
  std::atomic<uint64_t> ipc_blocks = 0, nccl_blocks = 0, grpc_blocks = 0, group_blocks = 0, misses = 0, late = 0;
};

class DeviceGet {
 public:
  DeviceGet(DeviceReaderParts* parts, absl::Span<const Key> chain, BlockRange range, const DevicePages& pages,
            FanOut* group);

  absl::StatusOr<DeviceGetResult> Run();   // alone, or as rank 0
  absl::StatusOr<DeviceGetResult> Take();  // as another rank

 private:
  struct Window {  // what a fetch came to
    GetResult fetched;
    std::vector<DeviceBlock> blocks;
    bool more = false;  // where it ends nobody missed a block: the lane had no room
  };
  absl::Status RunWindow(std::shared_ptr<DeviceLane> lane);
  static BlockVerdict EndOf(const Window& window, bool more);
  absl::StatusOr<Window> Fetch(BlockRange range, const std::shared_ptr<DeviceLane>& lane);
  absl::Status TakeOnce(std::shared_ptr<DeviceLane> lane);
  absl::Status Decode(DeviceDecode* decode, std::vector<DeviceBlock>* blocks);
  void Give(absl::Span<const DeviceBlock> blocks, const std::shared_ptr<DeviceLane>& lane, v1::MissReason end);
  void LimitToGroup(Window* window) const;
  void RenewPins(const std::shared_ptr<DeviceLane>& lane, absl::Span<DeviceBlock> blocks);
  size_t WindowBlocks() const;
  void Missed(v1::MissReason miss, std::string why, std::string node = "");
  std::string NodeName(const DeviceBlock& block) const;
  DeviceGetResult Conclude();

  DeviceReaderParts* const parts_;
  ClientCore* const core_;
  const absl::Span<const Key> chain_;
  const BlockRange range_;
  const DevicePages pages_;
  const absl::Time deadline_, fetch_by_, share_by_;
  FanOut* group_;      // null: there is none (any more)
  size_t at_;          // all blocks of the range before it are delivered
  size_t shared_;      // all before it were given to the group, or taken from it
  size_t limit_;       // blocks of the next window
  bool over_ = false;  // a block has ended the run: result_.miss
  bool told_ = false;  // so has the group heard
  DeviceGetResult result_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_GET_H_
