// One rank of a tensor-parallel group fetches, all get the encoded bytes: a broadcast over one communicator of the group.
// Each rank then decodes its slice; the node and its network have sent the bytes once.
//
// Use      rank 0 calls Lead and hands the ticket to the others by the engine's own means, who call Join. From then on, for
//          every fetch, rank 0 calls Give once and each other rank calls Take once, in the same order.
// Sizes    are agreed first: a header of fixed size, which names the misses too, goes before the blocks. Its number must be
//          the one that is expected, or the group is out of step and ends.
// Threads  any; the calls of one FanOut come one at a time.
// Errors   FailedPrecondition  the ticket is of another NCCL, or this is a slice of a GPU.
//          DataLoss            out of step.
//          Others              a rank was late, died, or had no room. Whatever the error, the group is over for all: each
//                              rank fetches for itself until a new one is formed. A rank that answered OK has its bytes.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_FAN_OUT_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_FAN_OUT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/transport/nccl/communicators.h"
#include "services/transport/nccl/device_link.h"

namespace kvist {

inline constexpr size_t kMostSharedBlocks = 256;  // in one Give

class FanOut {
 public:
  // `on_ticket` is called once, on another thread.
  static absl::StatusOr<std::unique_ptr<FanOut>> Lead(Communicators* communicators, int ranks,
                                                      std::function<void(absl::StatusOr<std::string>)> on_ticket);
  static absl::StatusOr<std::unique_ptr<FanOut>> Join(Communicators* communicators, const std::string& ticket, int rank,
                                                      int ranks);
  ~FanOut();  // ends the group

  // Rank 0: what it fetched, misses included. The landing stays held until the bytes have gone.
  absl::Status Give(const Fetched& fetched, absl::Time deadline);
  // Other ranks: the same blocks, in memory of their own.
  absl::StatusOr<Fetched> Take(const TakeLanding& take, absl::Time deadline);

 private:
  struct Parts;
  explicit FanOut(std::unique_ptr<Parts> parts);
  static absl::StatusOr<std::unique_ptr<Parts>> Prepare(Device* device);

  void WriteHeader(const Fetched& fetched);
  absl::StatusOr<Fetched> ReadHeader() const;
  absl::Status Broadcast(std::vector<DeviceExtent> extents, std::shared_ptr<void> hold,
                         std::shared_ptr<DeviceEvent> after, absl::Time deadline);
  absl::Status GiveAll(const Fetched& fetched, absl::Time deadline);
  absl::StatusOr<Fetched> TakeAll(const TakeLanding& take, absl::Time deadline);
  absl::Status Ended(absl::Status status);

  const std::unique_ptr<Parts> parts_;
  uint64_t number_ = 0;  // of the next Give
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_FAN_OUT_H_
