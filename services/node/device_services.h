// The ways to a node's device memory that do without its host: CUDA IPC for workers on its GPU, NCCL for all others. Each
// is asked for by a flag, and a node that cannot have it serves without.
//
// Threads  Start by one thread; everything else by any.
// Errors   of Start: those of DeviceIpcServer::Start that a flag can mend (a taken or impossible path). A libnccl that is
//          not there or lacks something, or a GPU that shares no memory (MIG), is logged, and `trouble` says it.
#ifndef KVIST_SERVICES_NODE_DEVICE_SERVICES_H_
#define KVIST_SERVICES_NODE_DEVICE_SERVICES_H_

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cachestore/tiered_store.h"
#include "kvist/v1/cache.pb.h"
#include "services/node/config.h"
#include "services/node/metrics.h"

namespace kvist {

class DeviceServices {
 public:
  // `store` has a device tier, and outlives this.
  static absl::StatusOr<std::unique_ptr<DeviceServices>> Start(const DeviceConfig& config, TieredStore* store);
  virtual ~DeviceServices() = default;  // ends all pins, epochs and maps

  virtual grpc::Service* transfer_service() = 0;  // null without NCCL
  virtual void AddFigures(Metrics* metrics) = 0;
  virtual std::optional<v1::DeviceInfo> info() const = 0;  // none once the device is lost
  virtual const std::string& trouble() const = 0;          // a sentence; "" = all that was asked for is served
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_DEVICE_SERVICES_H_
