#include "services/node/rpc_timer.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "services/node/log.h"

namespace kvist {

RpcTimer::~RpcTimer() {
  const absl::Duration took = runtime_->Now() - start_;
  metrics_->CountRpc(method_, status_.code(), took);
  const std::string method(MethodName(method_)), ms = absl::StrCat(absl::ToInt64Milliseconds(took));
  if (!status_.ok()) {
    // A client that goes away has its reasons: readers do that to the slower of two.
    Log(absl::IsCancelled(status_) ? LogLevel::kDebug : LogLevel::kWarning, "a call failed",
        {{"method", method},
         {"code", absl::StatusCodeToString(status_.code())},
         {"why", std::string(status_.message())},
         {"ms", ms}});
  } else if (took >= slow_) {
    Log(LogLevel::kWarning, "a slow call", {{"method", method}, {"ms", ms}});
  }
}

}  // namespace kvist
