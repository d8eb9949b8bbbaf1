#include "services/node/grpc_log.h"

#include <grpc/support/log.h>

#include <mutex>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/node/log.h"

namespace kvist {
namespace {

constexpr int kMostASecond = 10;

// How many lines were left out before this one; nothing: this one is, too.
std::optional<int> LeftOut() {
  static std::mutex mutex;
  static absl::Time second = absl::InfinitePast();  // protected by mutex, as the rest
  static int lines = 0, left_out = 0;
  std::lock_guard lock(mutex);
  const absl::Time now = absl::Now();
  if (now - second >= absl::Seconds(1)) {
    second = now;
    lines = 0;
  }
  if (++lines > kMostASecond) {
    ++left_out;
    return std::nullopt;
  }
  const int before = left_out;
  left_out = 0;
  return before;
}

void Take(gpr_log_func_args* args) {
  const std::optional<int> left_out = LeftOut();
  if (!left_out) return;
  const LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR  ? LogLevel::kWarning  // a caller's mistake, mostly
                         : args->severity == GPR_LOG_SEVERITY_INFO ? LogLevel::kInfo
                                                                   : LogLevel::kDebug;
  Log(level, "grpc", {{"message", args->message}, {"left_out_before", absl::StrCat(*left_out)}});
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(Take); }

}  // namespace kvist
