#include "services/runtime/trace.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr size_t kBytes = 55;  // of version 00: 00-<32>-<16>-<2>

thread_local Trace current;

// -1 if it is no lower-case hex digit.
int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return HexDigit(c) >= 0; });
}

bool IsId(std::string_view text) { return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos; }

}  // namespace

std::string Trace::ToTraceparent() const {
  return absl::StrCat("00-", trace_id, "-", span_id, sampled ? "-01" : "-00");
}

std::optional<Trace> ParseTraceparent(std::string_view text) {
  if (text.size() < kBytes || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  const std::string_view version = text.substr(0, 2), flags = text.substr(53, 2);
  if (!IsHex(version) || version == "ff" || !IsHex(flags)) return std::nullopt;
  if (text.size() > kBytes && (version == "00" || text[kBytes] != '-')) return std::nullopt;
  Trace trace;
  trace.trace_id = text.substr(3, 32);
  trace.span_id = text.substr(36, 16);
  trace.sampled = (HexDigit(flags[1]) & 1) != 0;
  if (!IsId(trace.trace_id) || !IsId(trace.span_id)) return std::nullopt;
  return trace;
}

const Trace& CurrentTrace() { return current; }

TraceScope::TraceScope(Trace trace) : before_(std::exchange(current, std::move(trace))) {}
TraceScope::~TraceScope() { current = std::move(before_); }

std::function<void()> InCurrentTrace(std::function<void()> task) {
  return [trace = current, task = std::move(task)] {
    const TraceScope scope(trace);
    task();
  };
}

}  // namespace kvist
