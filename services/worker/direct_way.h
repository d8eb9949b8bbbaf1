// A way to a node's blocks beside its Cache.Get: from its device memory to ours. Internal to services/worker.
//
// Threads any.
#ifndef KVIST_SERVICES_WORKER_DIRECT_WAY_H_
#define KVIST_SERVICES_WORKER_DIRECT_WAY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kvist/v1/cache.pb.h"
#include "services/worker/node_link.h"

namespace kvist {

// What became of one block.
struct DirectBlock {
  enum class Outcome : uint8_t { kHere, kElsewhere, kMiss };
  Outcome outcome = Outcome::kElsewhere;              // kElsewhere: it may be had over Cache.Get
  v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;  // of kMiss: the node's own reason
  uint64_t received_bytes = 0;
};

class DirectWay {
 public:
  virtual ~DirectWay() = default;
  // Whether it is worth a Fetch now. Never waits.
  virtual bool LeadsTo(const std::shared_ptr<NodeLink>& node) = 0;
  // One outcome a block, in order, by `deadline`. What is kHere has been kept for the caller, unverified.
  virtual std::vector<DirectBlock> Fetch(const std::shared_ptr<NodeLink>& node, absl::Span<const size_t> blocks,
                                         absl::Time deadline) = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DIRECT_WAY_H_
