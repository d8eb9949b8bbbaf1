#include "services/worker/health.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/worker/retry.h"

namespace kvist {
namespace {

// A call that had less time than this says nothing of the node when it is late.
constexpr absl::Duration kFairWait = absl::Milliseconds(50);

std::string Rounded(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1)));
}

}  // namespace

absl::Status Breaker::RefusalAt(absl::Time now) {
  if (open_) {
    const absl::Duration left = std::max(probe_due_ - now, absl::ZeroDuration());
    return absl::UnavailableError(absl::StrCat(last_failure_, " (not asked again for ", Rounded(left), ")"));
  }
  if (waiting_ > 0 && now - silent_since_ >= options_.silence) {
    return absl::UnavailableError(absl::StrCat("no sign of life for ", Rounded(now - silent_since_)));
  }
  return absl::OkStatus();
}

absl::Status Breaker::Refusal() {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  return RefusalAt(now);
}

absl::Status Breaker::Begin() {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  if (absl::Status refusal = RefusalAt(now); !refusal.ok()) return refusal;
  if (waiting_++ == 0) silent_since_ = now;
  return absl::OkStatus();
}

void Breaker::Alive() {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  silent_since_ = now;
}

bool Breaker::End(const absl::Status& status, absl::Time began, bool judged) {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  --waiting_;
  if (!judged) return false;
  const bool late = absl::IsDeadlineExceeded(status);
  if (late && now - began < kFairWait) return false;
  if (!late && !absl::IsUnavailable(status)) {
    silent_since_ = now;
    failures_ = openings_ = 0;
    open_ = half_open_ = false;
    return false;
  }
  last_failure_ = std::string(status.message());
  if (open_) return false;
  ++failures_;
  const bool silent = late && now - std::max(began, silent_since_) >= options_.silence;
  if (!silent && !half_open_ && failures_ < options_.failures) return false;
  Open(now);
  return true;
}

void Breaker::Open(absl::Time now) {
  if (!open_) open_since_ = now;
  open_ = true;
  const absl::Duration pause = options_.first_pause * (1 << std::min(openings_, 16));
  probe_due_ = now + Jittered(std::min(pause, options_.longest_pause), runtime_);
  ++openings_;
}

absl::Time Breaker::ProbeDue() {
  std::lock_guard lock(mutex_);
  return open_ ? probe_due_ : absl::InfiniteFuture();
}

absl::Time Breaker::OpenSince() {
  std::lock_guard lock(mutex_);
  return open_ ? open_since_ : absl::InfiniteFuture();
}

void Breaker::Probed(const absl::Status& status) {
  const absl::Time now = runtime_->Now();
  std::lock_guard lock(mutex_);
  if (!open_) return;
  if (absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status)) {
    last_failure_ = std::string(status.message());
    return Open(now);
  }
  open_ = false;
  half_open_ = true;
  failures_ = 0;
  silent_since_ = now;
}

}  // namespace kvist
