// A BlockStore at the other end of a Channel, so that a remote node composes like any other tier and passes the same
// conformance suite.
//
// Units   bytes; deadlines are relative to each call.
// Threads any, as BlockStore says. A Reservation belongs to one thread.
// Errors  those of BlockStore, plus Unavailable and DeadlineExceeded of the channel. A block that the node finds
//         damaged is DataLoss. Reasons that only services know become kNeverStored (services/transport/miss_reason.h).
//         Scan is Unimplemented: a node does not list its blocks to others.
// Bounds  Get and Reserve hold the whole block in memory of this process, of at most max_block_bytes, whatever the node
//         says; a chain is at most the node's max_keys long.
// Differs an aborted reservation returns its space when the node has seen the broken stream, a moment later. Traits go
//         to the node (expiry as a time to live, in whole milliseconds, rounded up) and do not come back; nor do a
//         miss's time and cause, which Explain tells. Every Get touches; an erased block is erased by request.
#ifndef KVIST_SERVICES_WORKER_REMOTE_STORE_H_
#define KVIST_SERVICES_WORKER_REMOTE_STORE_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

struct RemoteStoreOptions {
  Channel* channel = nullptr;                  // outlives the store and all that it gives out
  Clock clock = RealRuntime()->clock();        // the transport's
  Clock store_clock = RealRuntime()->clock();  // what BlockTraits::expires is counted by; the wire carries a ttl
  absl::Duration deadline = absl::Seconds(5);
  uint64_t max_block_bytes = 256ull << 20;     // the node's (ServerInfo); Get takes no block that is larger
  std::array<uint8_t, 16> namespace_digest{};  // of the blocks that are put: the node compares their headers with it
  uint64_t view = 0;
};

std::unique_ptr<BlockStore> NewRemoteStore(RemoteStoreOptions options);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_REMOTE_STORE_H_
