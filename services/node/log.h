// Structured logs: one JSON object a line on standard error, by spdlog. Never on the data path above debug level.
//
// Bounds  of each event, ten lines at once and then one a second, with "left_out": how many there would have been since
//         the last (log_limit.h). `event` must therefore be a constant; what varies belongs into the fields.
#ifndef KVIST_SERVICES_NODE_LOG_H_
#define KVIST_SERVICES_NODE_LOG_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace kvist {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// InvalidArgument names the known levels: debug, info, warning, error.
absl::Status SetLogLevel(std::string_view name);

// Log(LogLevel::kInfo, "serving", {{"address", address}}) prints
// {"time":...,"level":"info","event":"serving","address":...}; in a trace (runtime/trace.h) also its trace_id and span_id.
void Log(LogLevel level, std::string_view event,
         std::initializer_list<std::pair<std::string_view, std::string>> fields = {});

// The audit log: one such line for each admin act, at every log level; none is left out.
void LogAudit(std::initializer_list<std::pair<std::string_view, std::string>> fields);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_LOG_H_
