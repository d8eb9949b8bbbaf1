// A worker's reads into pages in GPU memory: Client::Get, with the decode on the device. Blocks come by the shortest way
// that leads to their node, and no byte of them is decoded by the host.
//
//   CUDA IPC  the node's blocks lie on our GPU: decoded from where they are
//   NCCL      the node has the same NCCL: from its GPU to ours
//   gRPC      everything else, and whatever the other two did not bring: replicas, hedges, retries as in Client::Get
//
// Shapes  DevicePages (device_pages.h). A prompt's blocks are numbered as in client.h.
// Units   blocks, bytes.
// Threads any number of threads may call any method; `gets` of them have room on the device at once. Destruction waits
//         for what is still fetched for calls that have returned; no call may be running then.
// Errors  as of Client: what nodes do costs misses, never a Status. A Status is
//           InvalidArgument, Unimplemented  pages that no kernel serves; a range that is not within the chain
//           Unavailable                     our own device has failed: no page can be trusted
//           Internal                        the launch failed: likewise. What was launched is waited for, by the deadline
// Codecs  a block of a codec without a kernel (kernels/cuda/decode.h) is a miss whose `why` says so: Client::Get brings it.
// Bounds  a call returns by ClientOptions.deadline. The last eighth of that time is kept for decoding what has come.
// Pages   as with Client::Get, those behind the run may have been written. When the device was not done by the deadline it
//         may write for longer: see DeviceGetResult.writing.
// Sure    a block is delivered when its identity was checked on the host, its checksums on the device, and, if it was read
//         in a node's memory, the pin still held after all that.
// Groups  of tensor-parallel ranks: rank 0 calls Get with the group's FanOut, the others Take with theirs, all for the same
//         chain and range, each with pages and heads of its own. Results may differ (a rank's own device may be late): the
//         engine goes on with what all of them have. A group that broke is in `group`; each rank can go on by itself.
#ifndef KVIST_SERVICES_WORKER_DEVICE_READER_H_
#define KVIST_SERVICES_WORKER_DEVICE_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/device.h"
#include "cachestore/key.h"
#include "services/transport/nccl/communicators.h"
#include "services/transport/nccl/fan_out.h"
#include "services/transport/nccl/transfer_control.h"
#include "services/worker/client.h"
#include "services/worker/device_decoder.h"
#include "services/worker/device_pages.h"

namespace kvist {

struct DeviceReaderOptions {
  std::shared_ptr<Device> device;
  DeviceDecoder* decoder = nullptr;        // outlives the reader
  Communicators* communicators = nullptr;  // on the same device; outlives the reader. Null = no NCCL
  // NewGrpcTransferControl. Needed with `communicators`.
  std::function<std::unique_ptr<TransferControl>(const std::string& address)> connect_control;

  size_t gets = 4;  // that have room on the device at once; 1 to 64
  uint64_t landing_bytes =
      uint64_t{256} << 20;  // device memory of each, for encoded blocks; at least two of the largest
  uint64_t scratch_bytes = uint64_t{32} << 20;  // device memory of each, for the tables of a launch
  uint64_t pinned_bytes = uint64_t{32} << 20;   // host memory of each, for the same
  uint64_t staging_bytes = uint64_t{64} << 20;  // host memory in all; at least a largest block for each client thread
  absl::Duration copy_deadline = absl::Seconds(2);  // of one copy to the device
};

struct DeviceGetResult : GetResult {
  uint64_t ipc_blocks = 0, nccl_blocks = 0, grpc_blocks = 0;  // of `blocks`; 0 for those from a group
  absl::Status group;                                         // not OK: the group is over, and this rank did without
  // Not null: the device was not done by the deadline, and writes into the pages until this event. Whoever uses them for
  // anything else lets its stream wait for it first.
  std::shared_ptr<DeviceEvent> writing;
};

struct DeviceReaderCounters {
  uint64_t ipc_blocks = 0, nccl_blocks = 0, grpc_blocks = 0, group_blocks = 0;  // delivered, by the way they came
  uint64_t misses = 0;                                                          // calls that a miss has ended
  uint64_t late_launches = 0;  // the device was not done with them by the deadline
};

struct DeviceReaderParts;

class DeviceReader {
 public:
  // `client` outlives the reader. Its counters count the reader's Gets too.
  // Errors: InvalidArgument    names every option that is wrong.
  //         ResourceExhausted, Unavailable  of the device (cachestore/device.h).
  static absl::StatusOr<std::unique_ptr<DeviceReader>> Create(Client* client, const DeviceReaderOptions& options);
  ~DeviceReader();

  // Brings blocks [range.first, range.last) of the chain into the pages; what comes first that is missing, late, or in any
  // doubt ends the run. `group` may be null.
  absl::StatusOr<DeviceGetResult> Get(absl::Span<const Key> chain, BlockRange range, const DevicePages& pages,
                                      FanOut* group = nullptr);
  // The same by a rank that gets its bytes from rank 0 of its group.
  absl::StatusOr<DeviceGetResult> Take(absl::Span<const Key> chain, BlockRange range, const DevicePages& pages,
                                       FanOut* group);

  DeviceReaderCounters counters() const;

 private:
  explicit DeviceReader(std::shared_ptr<DeviceReaderParts> parts);
  absl::Status CheckCall(absl::Span<const Key> chain, BlockRange range, const DevicePages& pages) const;
  absl::StatusOr<DeviceGetResult> Counted(absl::StatusOr<DeviceGetResult> result, bool from_group);

  const std::shared_ptr<DeviceReaderParts> parts_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_READER_H_
