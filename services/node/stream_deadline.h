// A stream holds pinned or reserved bytes, so each must say when it ends at the latest.
#ifndef KVIST_SERVICES_NODE_STREAM_DEADLINE_H_
#define KVIST_SERVICES_NODE_STREAM_DEADLINE_H_

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvist {

// InvalidArgument if the call has no deadline, or one further away than `most`.
inline absl::Status CheckStreamDeadline(const grpc::CallbackServerContext& context, absl::Duration most) {
  // A second of grace: the deadline travels as a time-out and is rounded up.
  if (absl::FromChrono(context.deadline()) <= absl::Now() + most + absl::Seconds(1)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("Get and Put need a deadline of at most ", absl::FormatDuration(most), ": set one on the call"));
}

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_STREAM_DEADLINE_H_
