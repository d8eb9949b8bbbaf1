// A worker's half of transfers from device to device with one node: it opens epochs, fetches through them, and gets out of
// the way when NCCL fails.
//
// States   closed -> opening        a Fetch asks for it; in the background, since an init takes a good part of a second
//          opening -> open          both ends are up
//          open -> closed           idle for too long, or closed to make room
//          opening, open -> backing off   anything failed; for a jittered pause that doubles up to `longest_pause`
//          opening -> refused       these two can never (another NCCL, one GPU, MIG): for `refused_pause`
//          backing off, refused -> opening   the pause is over and a Fetch asks for it
// Threads  Fetch from any number of threads; each waits by its own deadline. Destruction aborts the epoch.
// Errors   of Fetch: Unavailable  not open now: the caller goes over gRPC at once, nothing was waited for.
//          Any other: the transfer failed; the epoch is over, the node has been told, the blocks are not there.
// Memory   is the caller's, asked for when the sizes are known. After a failure NCCL may write into it until its `hold` is
//          dropped: a fallback takes other memory.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_DEVICE_LINK_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_DEVICE_LINK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/key.h"
#include "kvist/v1/transfer.pb.h"
#include "services/runtime/thread_pool.h"
#include "services/transport/nccl/communicators.h"
#include "services/transport/nccl/transfer_control.h"

namespace kvist {

// Where blocks land, of exactly the size that was asked for. Free for another use when `hold` has been dropped.
struct Landing {
  DeviceAddress address;
  std::shared_ptr<void> hold;
};
using TakeLanding = std::function<absl::StatusOr<Landing>(uint64_t size_bytes)>;

inline constexpr uint64_t kLandingAlignment = 256;  // of each block, from the landing's begin

inline constexpr size_t kMostTransferKeys = 256;  // keys beyond are `elsewhere`

struct FetchedBlock {
  v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;
  bool elsewhere = false;  // stored, but it must be fetched in another way
  DeviceExtent extent;     // in the landing; empty unless it was fetched
};
struct Fetched {
  std::vector<FetchedBlock> blocks;  // one per key, in order
  std::shared_ptr<void> hold;        // of the landing
};

struct DeviceLinkOptions {
  std::string worker_id;                            // of this process and no other
  std::string host_id;                              // HostId()
  absl::Duration control_limit = absl::Seconds(5);  // of a call that opens or ends an epoch
  absl::Duration first_pause = absl::Milliseconds(200);
  absl::Duration longest_pause = absl::Seconds(30);
  absl::Duration refused_pause = absl::Minutes(10);
};

class DeviceLink {
 public:
  enum class State { kClosed, kOpening, kOpen, kBackingOff, kRefused };
  struct Counts {
    uint64_t epochs = 0, transfers = 0, failures = 0, bytes = 0;
  };

  // `communicators` and `errands` outlive this. Errands wait for the node, by `control_limit`.
  DeviceLink(Communicators* communicators, std::unique_ptr<TransferControl> control, ThreadPool* errands,
             DeviceLinkOptions options);
  ~DeviceLink();

  absl::StatusOr<Fetched> Fetch(absl::Span<const Key> keys, const TakeLanding& take, absl::Time deadline);

  State state() const;
  absl::Status why() const;  // it is not open: the last failure; OK if there was none
  Counts counts() const;

 private:
  struct Epoch {
    uint64_t number = 0;
    std::shared_ptr<Communicator> communicator;
  };
  // What errands share with the link; they may run after it has gone.
  struct Core;

  absl::StatusOr<Epoch> OpenEpoch();
  absl::Status Receive(const Epoch& epoch, uint64_t operation, const std::vector<DeviceExtent>& extents,
                       const std::shared_ptr<void>& hold, absl::Time deadline);
  absl::Status Failed(const Epoch& epoch, absl::Status why);

  const std::shared_ptr<Core> core_;
  std::atomic<uint64_t> next_operation_{1};
  // Held from a Start to the submission of its receive: both ends must have one order.
  std::timed_mutex order_;
  int tick_ = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_DEVICE_LINK_H_
