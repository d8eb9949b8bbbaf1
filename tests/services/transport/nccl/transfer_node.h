// A node with blocks on an emulated device, over real gRPC: the control of transfers, and Cache.Get of the same blocks.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_TRANSFER_NODE_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_TRANSFER_NODE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "services/transport/nccl/transfer_sessions.h"
#include "services/transport/tls.h"
#include "tests/services/transport/nccl/pair.h"
#include "tests/services/transport/nccl/placed_blocks.h"

namespace kvist::testing {

// Block `number` of every such node.
inline std::vector<uint8_t> BlockBytes(uint32_t number) { return Bytes((1 << 20) + 4 * number, number); }

class TransferNode {
 public:
  // In plaintext if `tls` is null.
  explicit TransferNode(uint32_t blocks, NcclLimits limits = TestLimits(), std::shared_ptr<TlsIdentity> tls = nullptr);
  ~TransferNode();
  const std::string& address() const { return address_; }

  End end;
  PlacedBlocks blocks;
  TransferSessions sessions;

 private:
  const std::shared_ptr<TlsIdentity> tls_;  // outlives the server
  struct Server;
  std::unique_ptr<Server> server_;
  std::string address_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_TRANSFER_NODE_H_
