// The call behind a stream: its deadline, and how the node cancels it from outside of gRPC's threads.
#ifndef KVIST_SERVICES_NODE_STREAM_CALL_H_
#define KVIST_SERVICES_NODE_STREAM_CALL_H_

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <functional>
#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/node/cache_handlers.h"

namespace kvist {

// On the handlers' clock; gRPC counts by the machine's.
inline absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const CacheHandlers& handlers) {
  const absl::Time deadline = absl::FromChrono(context.deadline());
  return handlers.Now() + (deadline - absl::Now());
}

// Makes whatever the stream waits for fail. It owns the call, and may run after the reactor and its context are gone.
inline std::function<void()> CancelOf(grpc::CallbackServerContext* context) {
  grpc_call* call = context->c_call();
  grpc_call_ref(call);
  return [call = std::shared_ptr<grpc_call>(call, grpc_call_unref)] { grpc_call_cancel(call.get(), nullptr); };
}

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_STREAM_CALL_H_
