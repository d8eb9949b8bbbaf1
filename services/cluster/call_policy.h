// When a call from node to node is late, whether its failure is worth another try, and when.
//
// Threads pure.
#ifndef KVIST_SERVICES_CLUSTER_CALL_POLICY_H_
#define KVIST_SERVICES_CLUSTER_CALL_POLICY_H_

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/transport/retry_hint.h"

namespace kvist {

// `grace` beside the time that the bytes take at 8 MiB a second.
inline absl::Time CallDeadline(absl::Time now, absl::Duration grace, uint64_t size_bytes) {
  return now + grace + absl::Seconds(static_cast<double>(size_bytes) / (8 << 20));
}

inline bool WorthAnotherTry(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status) ||
         absl::IsAborted(status) || absl::IsCancelled(status);
}

// As long as the peer's hint says, or 50 ms doubling to 5 s with the failures before; and a little more by `chance` in
// [0, 1), so that those who were refused together do not come back together.
inline absl::Duration PauseAfter(const absl::Status& status, int failures, double chance) {
  const absl::Duration own = std::min(absl::Seconds(5), absl::Milliseconds(50) * (1 << std::min(failures, 10)));
  return RetryHint(status).value_or(own) * (1 + 0.25 * chance);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_CALL_POLICY_H_
