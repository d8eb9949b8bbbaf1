// When to try again: an overloaded node's hint, carried in a Status. Over gRPC it is the trailing metadata
// grpc-retry-pushback-ms, which any gRPC client understands.
//
// Threads pure.
// Bounds  a hint is at most kLongestRetryHint as it is read: a node that is wrong keeps nobody away for long.
#ifndef KVIST_SERVICES_TRANSPORT_RETRY_HINT_H_
#define KVIST_SERVICES_TRANSPORT_RETRY_HINT_H_

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace kvist {

inline constexpr char kRetryHintPayload[] = "kvist.v1/retry_after_ms";
inline constexpr char kRetryHintMetadata[] = "grpc-retry-pushback-ms";
inline constexpr absl::Duration kLongestRetryHint = absl::Seconds(10);

inline absl::Status WithRetryHint(absl::Status status, absl::Duration after) {
  status.SetPayload(kRetryHintPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(after))));
  return status;
}

inline std::optional<absl::Duration> RetryHint(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryHintPayload);
  int64_t ms = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &ms) || ms < 0) return std::nullopt;
  return std::min(absl::Milliseconds(ms), kLongestRetryHint);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_RETRY_HINT_H_
