// A node's half of transfers from device to device: one session a worker, each an epoch with its communicator. Free of
// gRPC; transfer_service.h translates.
//
// Threads  every method from any thread; none waits for NCCL, the device or a worker.
// Life     a session ends with its communicator, whatever ended that: the worker's Close or Abort, a new Open of the same
//          worker, an error, a deadline, idleness, the cap. Operations that are offered and not started end by their
//          deadline. Pins go when nothing can read the memory any more (Operation::hold).
// Errors   those of proto/kvist/v1/transfer.proto. One worker's trouble is never another's.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_SESSIONS_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_SESSIONS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/device_blocks.h"
#include "kvist/v1/transfer.pb.h"
#include "services/transport/nccl/communicators.h"

namespace kvist {

// Of the machine, since it was started.
std::string HostId();

struct TransferLimits {
  uint64_t max_bytes = uint64_t{256} << 20;  // in one operation; the rest goes over Cache.Get
  int max_keys = 256;                        // in one operation
  int max_offered = 8;                       // operations of one worker that are not started yet
  absl::Duration longest = absl::Seconds(30);
  bool one_gpu = false;  // two processes on one GPU are served: NCCL must have been told to allow it
};

class TransferSessions {
 public:
  struct Counts {
    uint64_t started = 0, sent = 0, failed = 0;  // operations
    uint64_t sent_bytes = 0;
    uint64_t expired = 0;  // offered, never started
    uint64_t refused_versions = 0;
    int sessions = 0;
    uint64_t offered_bytes = 0;  // pinned for operations that are not started
  };

  // `communicators` and `blocks` outlive this.
  TransferSessions(Communicators* communicators, DeviceBlocks* blocks, std::string host_id, TransferLimits limits);
  ~TransferSessions();  // aborts what is open

  // `done` is called once, on this thread or another, within the limits of NCCL's calls.
  void Open(const v1::OpenEpochRequest& request, std::function<void(absl::StatusOr<v1::OpenEpochResponse>)> done);
  absl::StatusOr<v1::TransferResponse> Transfer(const v1::TransferRequest& request);
  absl::StatusOr<v1::StartResponse> Start(const v1::StartRequest& request);
  absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest& request);
  absl::StatusOr<v1::CloseEpochResponse> Close(const v1::CloseEpochRequest& request);

  Counts counts() const;

 private:
  using Pins = std::vector<std::unique_ptr<DevicePin>>;
  struct Offer {
    std::vector<DeviceExtent> extents;  // in the order of the response
    std::shared_ptr<Pins> pins;
    uint64_t bytes = 0;
    absl::Time deadline;
  };
  struct Session {
    std::string worker_id;
    std::shared_ptr<Communicator> communicator;
    std::map<uint64_t, Offer> offers;  // by operation
  };
  // What may outlive this: callbacks of operations.
  struct Tally {
    std::mutex mutex;
    Counts counts ABSL_GUARDED_BY(mutex);
  };

  absl::Status CheckWorker(const v1::OpenEpochRequest& request);
  absl::StatusOr<Session*> FindLocked(uint64_t epoch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckTransfer(const v1::TransferRequest& request) const;
  // Pins what is on the device, and describes all of it.
  absl::StatusOr<Offer> MakeOffer(const v1::TransferRequest& request, v1::TransferResponse* response);
  void Sweep(absl::Time now);

  Communicators* const communicators_;
  DeviceBlocks* const blocks_;
  const std::string host_id_;
  const TransferLimits limits_;
  const std::shared_ptr<Tally> tally_ = std::make_shared<Tally>();

  mutable std::mutex mutex_;
  std::map<uint64_t, Session> sessions_ ABSL_GUARDED_BY(mutex_);  // by epoch
  uint64_t last_epoch_ ABSL_GUARDED_BY(mutex_);
  int tick_ = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_TRANSFER_SESSIONS_H_
