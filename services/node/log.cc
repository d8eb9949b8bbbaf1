#include "services/node/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/node/log_limit.h"
#include "services/runtime/trace.h"

namespace kvist {
namespace {

constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warning", "error"};
constexpr std::array<spdlog::level::level_enum, 4> kSpdlogLevels = {spdlog::level::debug, spdlog::level::info,
                                                                    spdlog::level::warn, spdlog::level::err};

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stderr_logger_mt("kvist");
    made->set_pattern("%v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *logger;
}

}  // namespace

absl::Status SetLogLevel(std::string_view name) {
  for (size_t i = 0; i < kLevelNames.size(); ++i) {
    if (name == kLevelNames[i]) {
      Logger().set_level(kSpdlogLevels[i]);
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("log level '", std::string(name), "' is unknown; it is debug, info, warning or error"));
}

namespace {

// `left_out` lines of this event were not written since the last one that was.
void Write(LogLevel level, spdlog::level::level_enum as, std::string_view event, uint64_t left_out,
           std::initializer_list<std::pair<std::string_view, std::string>> fields) {
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  line["level"] = kLevelNames[static_cast<size_t>(level)];
  line["event"] = event;
  if (const Trace& trace = CurrentTrace(); trace.known()) {
    line["trace_id"] = trace.trace_id;
    line["span_id"] = trace.span_id;
  }
  for (const auto& [name, value] : fields) line[std::string(name)] = value;
  if (left_out > 0) line["left_out"] = left_out;
  // Whatever bytes a field holds, the line stays valid JSON.
  Logger().log(as, "{}", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace

void Log(LogLevel level, std::string_view event,
         std::initializer_list<std::pair<std::string_view, std::string>> fields) {
  const spdlog::level::level_enum as = kSpdlogLevels[static_cast<size_t>(level)];
  if (!Logger().should_log(as)) return;
  static LogLimit limit;
  const std::optional<uint64_t> left_out = limit.Take(event, absl::Now());
  if (left_out) Write(level, as, event, *left_out, fields);
}

void LogAudit(std::initializer_list<std::pair<std::string_view, std::string>> fields) {
  Write(LogLevel::kInfo, spdlog::level::critical, "audit", /*left_out=*/0, fields);
}

}  // namespace kvist
