// gRPC's status and Abseil's have the same codes; one home for the conversion.
#ifndef KVIST_SERVICES_TRANSPORT_GRPC_STATUS_H_
#define KVIST_SERVICES_TRANSPORT_GRPC_STATUS_H_

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "services/transport/retry_hint.h"

namespace kvist {

// With the retry hint, if the peer gave one.
inline absl::Status FromGrpc(const grpc::Status& status, const grpc::ClientContext& context) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) return result;
  const auto hint = context.GetServerTrailingMetadata().find(kRetryHintMetadata);
  int64_t ms = 0;
  if (hint == context.GetServerTrailingMetadata().end()) return result;
  if (!absl::SimpleAtoi(std::string(hint->second.data(), hint->second.size()), &ms) || ms < 0) return result;
  return WithRetryHint(std::move(result), absl::Milliseconds(ms));
}
// Puts the status' retry hint, if it has one, into the call's trailing metadata.
inline grpc::Status ToGrpc(const absl::Status& status, grpc::CallbackServerContext* context) {
  if (const std::optional<absl::Duration> hint = RetryHint(status)) {
    context->AddTrailingMetadata(kRetryHintMetadata, std::to_string(absl::ToInt64Milliseconds(*hint)));
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), std::string(status.message()));
}

// Initial metadata of a Put whose space is reserved; its absence means that the call has ended already.
inline constexpr char kReservedMetadata[] = "kvist-reserved";
// Of PutProfile: the node wants the bytes.
inline constexpr char kWantedMetadata[] = "kvist-wanted";

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_GRPC_STATUS_H_
