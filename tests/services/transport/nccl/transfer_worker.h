// A worker of such a node: its link and its fallback go over real gRPC.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_TRANSFER_WORKER_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_TRANSFER_WORKER_H_

#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/transport/nccl/device_fetch.h"
#include "services/transport/nccl/device_link.h"
#include "services/transport/nccl/transfer_sessions.h"
#include "services/transport/transport.h"
#include "tests/services/transport/nccl/pair.h"
#include "tests/services/transport/nccl/placed_blocks.h"

namespace kvist::testing {

struct TransferWorker {
  // In plaintext if `tls` is null.
  explicit TransferWorker(const std::string& address, const std::string& name = "",
                          const std::shared_ptr<const TlsIdentity>& tls = nullptr)
      : end(TestLimits(), /*ordinal=*/1),
        transport(NewGrpcTransport(tls)),
        channel(transport->Connect(address)),
        fallback(NewChannelFallback(channel.get(), end.device.get())),
        errands(std::in_place, RealRuntime(), 2) {
    DeviceLinkOptions options;
    options.worker_id = absl::StrCat(name, "-", getpid());
    options.host_id = HostId();
    options.first_pause = absl::Milliseconds(1);
    options.longest_pause = absl::Milliseconds(5);
    link.emplace(end.communicators.get(), NewGrpcTransferControl(address, tls), &*errands, options);
    fetch.emplace(&*link, fallback.get());
  }
  ~TransferWorker() {
    link.reset();
    errands.reset();
  }
  bool Open() {
    return Eventually([&] {
      (void)link->Fetch({KeyOf(0xffffffff)}, Allocating(end.device.get()), absl::Now() + kTestDeadline);
      return link->state() == DeviceLink::State::kOpen;
    });
  }
  Fetched Get(uint32_t first, uint32_t count, absl::Duration limit = kTestDeadline) {
    std::vector<Key> keys;
    for (uint32_t i = 0; i < count; ++i) keys.push_back(KeyOf(first + i));
    return fetch->Fetch(keys, Allocating(end.device.get()), absl::Now() + limit);
  }
  std::vector<uint8_t> Read(const FetchedBlock& block) {
    return end.device->Read(block.extent.address, block.extent.size_bytes);
  }

  End end;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Channel> channel;
  std::unique_ptr<BlockFallback> fallback;
  std::optional<ThreadPool> errands;
  std::optional<DeviceLink> link;
  std::optional<DeviceFetch> fetch;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_TRANSFER_WORKER_H_
