// The decode of encoded blocks that lie in device memory into an engine's pages: the one step that every way of a Get, and
// every rank of a group, goes through. Internal to services/worker.
//
//   Prepare  blocks in several extents are gathered into one piece; header and table come to the host, and all that they
//            can tell is checked there (block_reader.h)
//   Decode   one launch for as many blocks as the lane has tables for: planes are verified and decoded on the device.
//            Of a node's memory, the pin is asked for last of all
//
// Threads one, which waits for the device by the deadline.
// Errors  a verdict of a block is on that block alone, and a block that the device had no time for is DEADLINE. A Status is
//         our own side's: Unavailable (the device has failed), or what the launch says. Then no page can be trusted.
// Life    what the device may still touch when an error or the deadline is met is kept until it is done (DeviceLanes); of
//         the pages, which are the caller's, `writing` tells.
#ifndef KVIST_SERVICES_WORKER_DEVICE_DECODE_H_
#define KVIST_SERVICES_WORKER_DEVICE_DECODE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/client_core.h"
#include "services/worker/device_decoder.h"
#include "services/worker/device_landing.h"
#include "services/worker/device_lanes.h"
#include "services/worker/device_pages.h"

namespace kvist {

struct DeviceBlock {
  size_t block = 0;  // of the chain
  Key key;
  LandedBlock landed;
  BlockVerdict verdict;
  absl::Span<const uint8_t> prefix;  // in the lane's pinned memory, once prepared

  bool good() const { return verdict.miss == v1::MISS_REASON_UNSPECIFIED; }
};

class DeviceDecode {
 public:
  struct Uses {
    ClientCore* core;
    DeviceLanes* lanes;
    DeviceDecoder* decoder;
  };
  // The bytes of a block's header and table, of any codec.
  static uint64_t PrefixBytes(const BlockShape& shape);

  DeviceDecode(const Uses& uses, std::shared_ptr<DeviceLane> lane, const DevicePages& pages, absl::Time deadline)
      : uses_(uses), lane_(std::move(lane)), pages_(pages), deadline_(deadline) {}

  // Drops those from the first on that the lane has no room for.
  absl::Status Prepare(std::vector<DeviceBlock>* blocks);
  // REQUIRES: prepared. Decodes the leading blocks that are good.
  absl::Status Decode(std::vector<DeviceBlock>* blocks);

  // Null, or done when nothing of this writes into the pages any more.
  const std::shared_ptr<DeviceEvent>& writing() const { return writing_; }

 private:
  absl::StatusOr<size_t> EnqueuePrepare(absl::Span<DeviceBlock> blocks);
  absl::StatusOr<bool> Gather(LandedBlock* landed);  // false: no room
  cuda::DecodeRequest RequestOf(const DeviceBlock& block) const;
  absl::StatusOr<cuda::DecodePlan> Plan(absl::Span<const DeviceBlock> blocks) const;
  bool RefuseAny(absl::Span<DeviceBlock> blocks) const;
  bool Fits(const cuda::DecodePlan& plan) const;
  absl::Status Launch(const cuda::DecodePlan& plan);
  void Judge(absl::Span<DeviceBlock> blocks);
  void CheckPinAndReport(DeviceBlock* block);

  // Waits for the stream, also for the part that was put there before `enqueued` failed; if it is not done, what it has is
  // kept.
  absl::Status Finish(const absl::Status& enqueued, absl::Span<const DeviceBlock> blocks, bool writes_pages);

  // Sections of the lane's pinned memory: prefixes, table, status words; and of its scratch: table, workspace.
  absl::Span<uint8_t> TableRoom() const { return lane_->pinned().subspan(prefixes_bytes_); }
  absl::Span<uint8_t> WordBytes(const cuda::DecodePlan& plan) const;

  const Uses uses_;
  const std::shared_ptr<DeviceLane> lane_;
  const DevicePages pages_;
  const absl::Time deadline_;
  uint64_t prefixes_bytes_ = 0;
  std::vector<uint32_t> words_;  // of the last launch
  std::shared_ptr<DeviceEvent> writing_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_DECODE_H_
