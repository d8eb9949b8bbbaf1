// Which distributed trace the work of this thread belongs to: W3C Trace Context, version 00 (https://www.w3.org/TR/trace-context/).
//
// Who is called sets a TraceScope for as long as it works for the caller; the log says it with every line, and gRPC calls
// pass it on. It does not follow work to other threads by itself: InCurrentTrace takes it along.
// A worker of ours and a node are no spans: what came is passed on and logged as it is. `tracestate` is not passed on.
//
// Threads a trace is of one thread.
#ifndef KVIST_SERVICES_RUNTIME_TRACE_H_
#define KVIST_SERVICES_RUNTIME_TRACE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace kvist {

inline constexpr char kTraceparent[] = "traceparent";  // the header's name

struct Trace {
  std::string trace_id, span_id;  // 32 and 16 lower-case hex digits; "" = there is no trace
  bool sampled = false;

  bool known() const { return !trace_id.empty(); }
  std::string ToTraceparent() const;  // REQUIRES: known()
  friend bool operator==(const Trace&, const Trace&) = default;
};

// Nothing for a text that is no traceparent; the specification has it ignored. Of a later version, what version 00 knows.
std::optional<Trace> ParseTraceparent(std::string_view text);

// Of this thread; not known() if there is none.
const Trace& CurrentTrace();

class TraceScope {
 public:
  explicit TraceScope(Trace trace);
  ~TraceScope();  // the one before is current again
  TraceScope(const TraceScope&) = delete;

 private:
  Trace before_;
};

// `task`, to be run in the trace that is current now (or in none), on whatever thread.
std::function<void()> InCurrentTrace(std::function<void()> task);

}  // namespace kvist

#endif  // KVIST_SERVICES_RUNTIME_TRACE_H_
