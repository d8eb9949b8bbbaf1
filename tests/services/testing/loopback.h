// Real nodes on real sockets, inside the test's process, and real blocks to put into them.
#ifndef KVIST_TESTS_SERVICES_TESTING_LOOPBACK_H_
#define KVIST_TESTS_SERVICES_TESTING_LOOPBACK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cachestore/key.h"
#include "kernels/block_format.h"
#include "services/node/node.h"
#include "services/transport/transport.h"

namespace kvist::testing {

inline absl::Time In(double seconds) { return absl::Now() + absl::Seconds(seconds); }

// Of a node by itself on ports chosen by the system.
NodeConfig TestConfig(uint64_t capacity_bytes);

// Ends the test's process if the node cannot start.
std::unique_ptr<NodeServer> StartNode(const NodeConfig& config);
std::unique_ptr<NodeServer> StartNode(uint64_t capacity_bytes, absl::Duration drain = absl::Seconds(5));

// The key whose bytes are all `fill`; and the namespace of the test blocks.
Key TestKey(uint8_t fill);
inline constexpr char kTestNamespace[] = "test namespace..";  // 16 bytes

// A raw16 block of this key and namespace with seeded random values: `layers` layers, one head, 16 tokens, head_dim 64.
std::string TestBlock(const Key& key, uint32_t layers, uint64_t seed,
                      const std::string& namespace_digest = kTestNamespace);

v1::PutReserve ReserveFor(const Key& key, uint64_t size_bytes, const std::string& namespace_digest = kTestNamespace);

// Puts a block over the wire; the node's status, or AlreadyExists.
absl::Status PutBlock(Channel* channel, const Key& key, const std::string& block,
                      const std::string& namespace_digest = kTestNamespace);

// What one Get brought, item by item.
struct ReceivedBlocks {
  std::vector<v1::GetHeader> headers;
  std::vector<std::string> bytes;  // of the whole block's length; parts not sent are zero
};
absl::StatusOr<ReceivedBlocks> GetBlocks(Channel* channel, const v1::GetRequest& request, absl::Time deadline = In(10));
v1::GetRequest GetRequestFor(const std::vector<Key>& keys);

// One GET of the node's HTTP port; "" if it does not answer.
std::string HttpGet(const Address& address, const std::string& path);

// Waits until `condition` holds; false if it does not within `seconds`.
bool WaitFor(const std::function<bool()>& condition, double seconds = 10);

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TESTING_LOOPBACK_H_
