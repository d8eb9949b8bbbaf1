// How each node's device memory is reached from ours, and the reaching: CUDA IPC where the node's GPU is our own, NCCL where
// both have the same release of it. Internal to services/worker.
//
// States of a node's way, for each life of the node (NodeLink):
//   unknown -> asking     a Fetch asks the node for its ServerInfo, and connects; other Gets go over the wire meanwhile
//   asking  -> open       one of the two ways leads there
//           -> none       it has no device that we can reach; for the rest of this life
//           -> unknown    the node did not answer, or refused: asked again after a pause that doubles
//   open    -> unknown    the socket broke: likewise. What fails in NCCL is DeviceLink's affair, which has pauses of its own
// Threads any. LeadsTo never waits; Fetch waits by its deadline.
// Life    Stop before the communicators go: it waits for the Fetches that are under way, and none begins after it.
#ifndef KVIST_SERVICES_WORKER_DEVICE_WAYS_H_
#define KVIST_SERVICES_WORKER_DEVICE_WAYS_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/device.h"
#include "cachestore/key.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/runtime/wait.h"
#include "services/transport/device_ipc/device_ipc_client.h"
#include "services/transport/nccl/communicators.h"
#include "services/transport/nccl/device_link.h"
#include "services/worker/device_landing.h"
#include "services/worker/direct_way.h"

namespace kvist {

struct DeviceWaysOptions {
  Runtime* runtime = nullptr;
  std::shared_ptr<Device> device;
  Communicators* communicators = nullptr;  // null = no NCCL
  std::function<std::unique_ptr<TransferControl>(const std::string& address)> connect_control;
  DeviceLinkOptions link;
  absl::Duration first_pause = absl::Milliseconds(200);
  absl::Duration longest_pause = absl::Seconds(30);
};

class DeviceWays {
 public:
  explicit DeviceWays(DeviceWaysOptions options);
  ~DeviceWays() { Stop(); }
  void Stop();

  bool LeadsTo(const std::shared_ptr<NodeLink>& node);
  // As DirectWay::Fetch; `keys` are those of `blocks`. What is here has been added to `landing`.
  std::vector<DirectBlock> Fetch(const std::shared_ptr<NodeLink>& node, absl::Span<const Key> keys,
                                 absl::Span<const size_t> blocks, DeviceLanding* landing, absl::Time deadline);

 private:
  enum class State : uint8_t { kUnknown, kAsking, kOpen, kNone };
  struct Way {
    std::weak_ptr<NodeLink> node;  // tells one life from the next that lies at the same address
    State state = State::kUnknown;
    absl::Time not_before = absl::InfinitePast();  // of the next question
    absl::Duration pause = absl::ZeroDuration();   // after the next failure
    std::shared_ptr<DeviceIpcClient> ipc;          // at most one of these two
    std::shared_ptr<DeviceLink> nccl;
  };

  Way& WayOf(const std::shared_ptr<NodeLink>& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The way as it is open now; neither: there is none.
  Way Open(const std::shared_ptr<NodeLink>& node, absl::Time deadline);
  absl::StatusOr<Way> Ask(NodeLink& node, absl::Time deadline);
  void Failed(const std::shared_ptr<NodeLink>& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::vector<DirectBlock> FetchOverIpc(const std::shared_ptr<NodeLink>& node, DeviceIpcClient& ipc,
                                        absl::Span<const Key> keys, absl::Span<const size_t> blocks,
                                        DeviceLanding* landing, absl::Time deadline);
  std::vector<DirectBlock> FetchOverNccl(const std::shared_ptr<NodeLink>& node, DeviceLink& nccl,
                                         absl::Span<const Key> keys, absl::Span<const size_t> blocks,
                                         DeviceLanding* landing, absl::Time deadline);

  const DeviceWaysOptions options_;
  Door door_;
  std::unique_ptr<ThreadPool> errands_;  // of the links: their nodes' answers are waited for there; null when stopped
  std::mutex mutex_;
  std::map<const NodeLink*, Way> ways_ ABSL_GUARDED_BY(mutex_);
};

// The ways as one Get takes them.
class LandingWay final : public DirectWay {
 public:
  LandingWay(std::shared_ptr<DeviceWays> ways, absl::Span<const Key> chain, std::shared_ptr<DeviceLanding> landing)
      : ways_(std::move(ways)), chain_(chain.begin(), chain.end()), landing_(std::move(landing)) {}

  bool LeadsTo(const std::shared_ptr<NodeLink>& node) override { return ways_->LeadsTo(node); }
  std::vector<DirectBlock> Fetch(const std::shared_ptr<NodeLink>& node, absl::Span<const size_t> blocks,
                                 absl::Time deadline) override {
    std::vector<Key> keys;
    for (const size_t block : blocks) keys.push_back(chain_[block]);
    return ways_->Fetch(node, keys, blocks, landing_.get(), deadline);
  }

 private:
  const std::shared_ptr<DeviceWays> ways_;
  const std::vector<Key> chain_;
  const std::shared_ptr<DeviceLanding> landing_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_WAYS_H_
