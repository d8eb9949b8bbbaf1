// Where the blocks of a Get go once all their bytes have come. Internal to services/worker; fetch_job.h calls it.
//
// Threads Take from any number of the client's decoders at once, for one block never twice at once; also after Close.
#ifndef KVIST_SERVICES_WORKER_BLOCK_TARGET_H_
#define KVIST_SERVICES_WORKER_BLOCK_TARGET_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "services/worker/block_reader.h"

namespace kvist {

class BlockTarget {
 public:
  virtual ~BlockTarget() = default;
  // Checks all of the block, and puts it where it belongs. A verdict with a miss is one on these bytes: another node's
  // may be better. Empty: no more is taken, whoever sends it; the run ends there.
  virtual std::optional<BlockVerdict> Take(size_t block, absl::Span<const uint8_t> bytes,
                                           const ExpectedBlock& expected) = 0;
  // From here on nothing that the caller has lent is touched. Does not wait for nodes or devices.
  virtual void Close() = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_BLOCK_TARGET_H_
