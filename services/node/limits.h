// What a node allows: sizes of requests, and how much of it may be under way at once (admission.h enforces these).
//
// Units   bytes, counts, absl::Duration; fractions are of the tier's capacity.
// Threads plain values.
#ifndef KVIST_SERVICES_NODE_LIMITS_H_
#define KVIST_SERVICES_NODE_LIMITS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace kvist {

// Of one request. A stream needs a deadline of at most `max_stream`, so that no reader holds pinned bytes, and no
// writer reserved ones, for ever.
struct Limits {
  uint32_t max_keys = 4096;
  uint64_t max_block_bytes = 256ull << 20;
  absl::Duration max_lease = absl::Seconds(30);
  absl::Duration max_stream = absl::Minutes(10);
};

// Of all requests together. Beyond them a request is refused with ResourceExhausted and a hint, before any work.
struct AdmissionLimits {
  uint32_t gets = 256;                             // Get streams under way
  uint64_t queued_bytes = 512ull << 20;            // that those have still to send
  double pinned_fraction = 0.25;                   // by Get streams; leases have their own cap in the tier
  uint32_t puts = 128;                             // Put streams under way
  double reserved_fraction = 0.5;                  // by those
  uint32_t matches = 64;                           // Match at one moment
  uint32_t explains = 4;                           // Explain and Describe together: people ask, not readers
  absl::Duration read_stall = absl::Seconds(10);   // a Get whose reader takes nothing for so long is ended
  absl::Duration write_stall = absl::Seconds(10);  // a Put whose writer sends nothing for so long is ended
  // A Get that is older than `read_stall` and whose reader took less than this a second over its life is ended.
  uint64_t min_read_rate = 64ull << 10;
  uint64_t min_write_rate = 64ull << 10;  // as is a Put that is older than `write_stall` and brought less
  uint64_t report_rate = 256ull << 20;    // bytes a second that reports may make the node verify
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_LIMITS_H_
