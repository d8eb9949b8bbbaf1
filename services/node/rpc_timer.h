// One call from its begin to its end: counts it, and tells the log of one that failed or was slow. A miss is no failure.
//
// Threads one at a time.
#ifndef KVIST_SERVICES_NODE_RPC_TIMER_H_
#define KVIST_SERVICES_NODE_RPC_TIMER_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/node/metrics.h"
#include "services/runtime/runtime.h"

namespace kvist {

class RpcTimer {
 public:
  // What takes `slow` or longer is logged.
  RpcTimer(Metrics* metrics, Method method, Runtime* runtime, absl::Duration slow)
      : metrics_(metrics), method_(method), runtime_(runtime), slow_(slow), start_(runtime->Now()) {}
  ~RpcTimer();  // in the trace of the call
  RpcTimer(const RpcTimer&) = delete;
  RpcTimer& operator=(const RpcTimer&) = delete;
  void SetStatus(const absl::Status& status) { status_ = status; }

 private:
  Metrics* const metrics_;
  const Method method_;
  Runtime* const runtime_;
  const absl::Duration slow_;
  const absl::Time start_;
  absl::Status status_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_RPC_TIMER_H_
