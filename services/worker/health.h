// Whether a node is asked: a circuit breaker, one per connection. Calls to a node that is down or silent cost their
// callers nothing while it is open; the view keeper probes the node in the background and closes it.
//
//   closed --5 failures in a row, or one call that saw no sign of life for `silence`--> open, for a jittered, growing time
//   open   --the probe is answered--> half open: one more failure opens it again, for longer; one success closes it
//   silent: closed, but calls wait and nothing has come for `silence`: no further call joins them
//
// Threads any.
// Why `silence`: a stopped node answers nothing until each call's deadline. Those that are under way pay it; no other.
#ifndef KVIST_SERVICES_WORKER_HEALTH_H_
#define KVIST_SERVICES_WORKER_HEALTH_H_

#include <cstddef>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct BreakerOptions {
  int failures = 5;
  absl::Duration silence = absl::Seconds(1);
  absl::Duration first_pause = absl::Milliseconds(250), longest_pause = absl::Seconds(5);
};

class Breaker {
 public:
  Breaker(const BreakerOptions& options, Runtime* runtime) : options_(options), runtime_(runtime) {}

  // Unavailable, with what the node said last, if it is not asked now.
  absl::Status Refusal();

  // A call begins to wait for the node, unless it is not asked now. Each Begin that is ok is ended by one End.
  absl::Status Begin();
  // Something came from the node.
  void Alive();
  // True if this end has opened the breaker. `began` is when the call began to wait; `judged` is false if the call was
  // ended by its caller and says nothing of the node.
  bool End(const absl::Status& status, absl::Time began, bool judged);

  // When the node should be probed next; InfiniteFuture while it is not open.
  absl::Time ProbeDue();
  void Probed(const absl::Status& status);
  // Since when no call and no probe has been answered; InfiniteFuture while it is not open.
  absl::Time OpenSince();

 private:
  absl::Status RefusalAt(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Open(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const BreakerOptions options_;
  Runtime* const runtime_;
  std::mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_open_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time probe_due_ ABSL_GUARDED_BY(mutex_), open_since_ ABSL_GUARDED_BY(mutex_);
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;  // in a row
  int openings_ ABSL_GUARDED_BY(mutex_) = 0;  // since the last call that succeeded
  std::string last_failure_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time silent_since_ ABSL_GUARDED_BY(mutex_);  // last sign of life, or when the first of waiting_ began
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_HEALTH_H_
