// A node with a device tier, in the test's process: handlers over a TieredStore on an emulated device, the socket for
// workers on the same GPU, and sessions for transfers to others. Reached without a wire.
#ifndef KVIST_TESTS_SERVICES_WORKER_DEVICE_NODE_H_
#define KVIST_TESTS_SERVICES_WORKER_DEVICE_NODE_H_

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cachestore/tiered_store.h"
#include "services/node/cache_handlers.h"
#include "services/transport/device_ipc/device_ipc_server.h"
#include "services/transport/nccl/transfer_control.h"
#include "services/transport/nccl/transfer_sessions.h"
#include "services/transport/transport.h"
#include "tests/services/transport/nccl/pair.h"

namespace kvist::testing {

enum class Reach { kHostOnly, kIpc, kNccl };  // how a worker gets at the node's device memory

class DeviceNode {
 public:
  // kIpc puts it on the GPU of ordinal 0, where the worker is; others are on GPUs of their own.
  DeviceNode(Reach reach, int number);
  ~DeviceNode();

  // Workers find `blocks` on the device, which lie in `memory`; those of the store if both are null.
  void StartIpc(absl::Duration pinned_for = absl::Seconds(30), DeviceBlocks* blocks = nullptr,
                const DeviceMemory* memory = nullptr);
  void StopIpc() { ipc.reset(); }

  bool Has(const Key& key);
  std::vector<uint8_t> Bytes(const Key& key);
  void Promote(const Key& key);           // it is on the device, too
  DeviceExtent OnDevice(const Key& key);  // where it begins there
  v1::DeviceInfo info() const;

  const Reach reach;
  End end;
  std::unique_ptr<TieredStore> store;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<CacheHandlers> handlers;
  std::unique_ptr<DeviceIpcServer> ipc;
  std::optional<TransferSessions> sessions;
  std::atomic<bool> down = false;       // every call is refused
  std::atomic<bool> hold_gets = false;  // no Get over the channel begins
  std::atomic<int> infos_asked = 0;

 private:
  const std::string folder_;
  std::string socket_;
};

// Nodes "n0", "n1", ... at "n0:1", "n1:1", ...
class DeviceCluster final : public Transport {
 public:
  explicit DeviceCluster(const std::vector<Reach>& nodes);
  std::unique_ptr<Channel> Connect(const std::string& address) override;
  std::unique_ptr<TransferControl> ConnectControl(const std::string& address);
  View view() const;
  size_t size() const { return nodes_.size(); }
  DeviceNode& node(size_t i) { return *nodes_.at(i); }

 private:
  DeviceNode& At(const std::string& address) { return node(std::stoul(address.substr(1, address.find(':') - 1))); }
  std::vector<std::unique_ptr<DeviceNode>> nodes_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_WORKER_DEVICE_NODE_H_
