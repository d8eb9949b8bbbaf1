#include "services/node/admission.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/transport/retry_hint.h"

namespace kvist {
namespace {

constexpr std::array<std::string_view, kBounds> kBoundNames = {
    "gets",    "queued_bytes", "pinned_bytes", "puts",       "reserved_bytes",
    "matches", "reports",      "explains",     "store_full", "tenant_requests"};
constexpr absl::Duration kLeastHint = absl::Milliseconds(20), kMostHint = absl::Seconds(2);
constexpr double kMeanWeight = 1.0 / 64;  // of one more item in the mean size

constexpr size_t Index(Bound bound) { return static_cast<size_t>(bound); }

std::string Text(std::string_view text) { return std::string(text); }

}  // namespace

std::string_view BoundName(Bound bound) { return kBoundNames[Index(bound)]; }

void RecentRate::Advance(absl::Time now) {
  if (now < begin_ + absl::Seconds(1)) return;
  previous_ = now < begin_ + absl::Seconds(2) ? current_ : 0;
  current_ = 0;
  begin_ = now;
}

void RecentRate::Add(uint64_t events, absl::Time now) {
  Advance(now);
  current_ += events;
}

double RecentRate::PerSecond(absl::Time now) {
  Advance(now);
  const double part = std::clamp(absl::ToDoubleSeconds(now - begin_), 0.0, 1.0);
  return current_ + previous_ * (1 - part);
}

struct Admission::State {
  // What one kind of request has under way, and how it fared lately.
  struct Kind {
    uint64_t in_flight = 0;
    RecentRate finished, refused;
  };

  State(Runtime* runtime, std::function<void(Bound, TenantId)> refused,
        std::function<uint32_t(TenantId)> tenant_requests)
      : runtime(runtime), refused(std::move(refused)), tenant_requests(std::move(tenant_requests)) {}

  absl::Status Refuse(Bound kind, Bound bound, const std::string& why, TenantId tenant = 0)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const absl::Time now = runtime->Now();
    Kind& of = kinds[Index(kind)];
    of.refused.Add(1, now);
    const absl::Duration wait = absl::Seconds(of.refused.PerSecond(now) / std::max(1.0, of.finished.PerSecond(now)));
    if (refused) refused(bound, tenant);
    const absl::Duration hint = std::clamp(wait, kLeastHint, kMostHint);
    return WithRetryHint(absl::ResourceExhaustedError(
                             absl::StrCat("this node is busy: ", why, "; try again in ", absl::FormatDuration(hint))),
                         hint);
  }

  // One more request of this kind, if there may be one.
  absl::Status CountIn(TenantId tenant, Bound bound, uint32_t limit, std::string_view what)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  Runtime* const runtime;
  const std::function<void(Bound, TenantId)> refused;
  const std::function<uint32_t(TenantId)> tenant_requests;
  mutable std::mutex mutex;
  std::array<Kind, kBounds> kinds ABSL_GUARDED_BY(mutex);
  std::array<uint32_t, TenantQuotas::kMostTenants> of_tenants ABSL_GUARDED_BY(mutex){};  // requests under way
  uint64_t queued_bytes ABSL_GUARDED_BY(mutex) = 0;
  uint64_t reserved_bytes ABSL_GUARDED_BY(mutex) = 0;
  PinnedBlocks pinned ABSL_GUARDED_BY(mutex);  // and those of each Get
  double mean_item_bytes ABSL_GUARDED_BY(mutex) = 0;
  RecentRate reported_bytes ABSL_GUARDED_BY(mutex);
};

Admission::Admission(const AdmissionLimits& limits, uint64_t capacity_bytes, Runtime* runtime,
                     std::function<void(Bound, TenantId)> refused, std::function<uint32_t(TenantId)> tenant_requests)
    : limits_(limits),
      max_pinned_bytes_(static_cast<uint64_t>(capacity_bytes * limits.pinned_fraction)),
      max_reserved_bytes_(static_cast<uint64_t>(capacity_bytes * limits.reserved_fraction)),
      state_(std::make_shared<State>(runtime, std::move(refused), std::move(tenant_requests))) {}

absl::Status Admission::State::CountIn(TenantId tenant, Bound bound, uint32_t limit, std::string_view what) {
  const uint32_t own_limit = tenant_requests ? tenant_requests(tenant) : 0;
  if (own_limit > 0 && of_tenants[tenant] >= own_limit) {
    return Refuse(Bound::kTenantRequests, Bound::kTenantRequests,
                  absl::StrCat(own_limit, " requests of this tenant are under way, as many as it may have"), tenant);
  }
  Kind& kind = kinds[Index(bound)];
  if (kind.in_flight >= limit) {
    return Refuse(bound, bound, absl::StrCat(kind.in_flight, " ", Text(what), " are under way, as many as it takes"));
  }
  ++kind.in_flight;
  ++of_tenants[tenant];
  return absl::OkStatus();
}

Pass Admission::PassOf(TenantId tenant, Bound bound) {
  return Pass([state = state_, tenant, bound] {
    std::lock_guard lock(state->mutex);
    State::Kind& kind = state->kinds[Index(bound)];
    --kind.in_flight;
    --state->of_tenants[tenant];
    kind.finished.Add(1, state->runtime->Now());
    if (tenant != 0) state->kinds[Index(Bound::kTenantRequests)].finished.Add(1, state->runtime->Now());
  });
}

absl::StatusOr<Pass> Admission::Enter(TenantId tenant, Bound bound, uint32_t limit, std::string_view what) {
  std::lock_guard lock(state_->mutex);
  if (absl::Status status = state_->CountIn(tenant, bound, limit, what); !status.ok()) return status;
  return PassOf(tenant, bound);
}

absl::StatusOr<Pass> Admission::EnterGet(TenantId tenant, size_t keys, uint64_t* queued_bytes) {
  std::lock_guard lock(state_->mutex);  // once: whoever comes next sees these bytes
  const uint64_t expected = static_cast<uint64_t>(keys * state_->mean_item_bytes);
  if (state_->queued_bytes > 0 && state_->queued_bytes + expected > limits_.queued_bytes) {
    return state_->Refuse(Bound::kGets, Bound::kQueuedBytes,
                          absl::StrCat(state_->queued_bytes, " bytes are still to be sent; at most ",
                                       limits_.queued_bytes, " are queued"));
  }
  if (absl::Status status = state_->CountIn(tenant, Bound::kGets, limits_.gets, "Gets"); !status.ok()) return status;
  state_->queued_bytes += * queued_bytes = expected;
  return PassOf(tenant, Bound::kGets);
}

void Admission::SetQueued(uint64_t* queued_bytes, uint64_t now_bytes) {
  std::lock_guard lock(state_->mutex);
  state_->queued_bytes += now_bytes - *queued_bytes;
  *queued_bytes = now_bytes;
}

void Admission::CountItem(uint64_t bytes) {
  std::lock_guard lock(state_->mutex);
  state_->mean_item_bytes += (bytes - state_->mean_item_bytes) * kMeanWeight;
}

absl::StatusOr<Pass> Admission::Pin(const void* block, uint64_t bytes, const std::shared_ptr<PinnedBlocks>& own) {
  std::lock_guard lock(state_->mutex);
  const uint64_t others_bytes = state_->pinned.bytes() - own->bytes();
  if (!state_->pinned.Has(block) && others_bytes > 0 && others_bytes + bytes > max_pinned_bytes_) {
    return state_->Refuse(
        Bound::kGets, Bound::kPinnedBytes,
        absl::StrCat("other Gets pin ", others_bytes, " bytes; at most ", max_pinned_bytes_, " are pinned for Gets"));
  }
  state_->pinned.Add(block, bytes);
  own->Add(block, bytes);
  return Pass([state = state_, own, block, bytes] {
    std::lock_guard lock(state->mutex);
    state->pinned.Remove(block, bytes);
    own->Remove(block, bytes);
  });
}

absl::StatusOr<Pass> Admission::EnterPut(TenantId tenant) { return Enter(tenant, Bound::kPuts, limits_.puts, "Puts"); }

absl::StatusOr<Pass> Admission::Reserve(uint64_t bytes) {
  std::lock_guard lock(state_->mutex);
  if (state_->reserved_bytes > 0 && state_->reserved_bytes + bytes > max_reserved_bytes_) {
    return state_->Refuse(Bound::kPuts, Bound::kReservedBytes,
                          absl::StrCat("Puts have reserved ", state_->reserved_bytes, " bytes; at most ",
                                       max_reserved_bytes_, " are reserved at once"));
  }
  state_->reserved_bytes += bytes;
  return Pass([state = state_, bytes] {
    std::lock_guard lock(state->mutex);
    state->reserved_bytes -= bytes;
  });
}

absl::Status Admission::RefuseFull(const absl::Status& why) {
  std::lock_guard lock(state_->mutex);
  return state_->Refuse(Bound::kPuts, Bound::kStoreFull, Text({why.message().data(), why.message().size()}));
}

absl::StatusOr<Pass> Admission::EnterMatch(TenantId tenant) {
  return Enter(tenant, Bound::kMatches, limits_.matches, "Matches");
}
absl::StatusOr<Pass> Admission::EnterExplain(TenantId tenant) {
  return Enter(tenant, Bound::kExplains, limits_.explains, "Explains and Describes");
}

absl::Status Admission::EnterReport(uint64_t bytes) {
  std::lock_guard lock(state_->mutex);
  const absl::Time now = state_->runtime->Now();
  const double recent = state_->reported_bytes.PerSecond(now);
  if (recent > 0 && recent + bytes > limits_.report_rate) {
    return state_->Refuse(Bound::kReports, Bound::kReports,
                          absl::StrCat("reports made it verify ", static_cast<uint64_t>(recent),
                                       " bytes within a second; at most ", limits_.report_rate, " are"));
  }
  state_->reported_bytes.Add(bytes, now);
  state_->kinds[Index(Bound::kReports)].finished.Add(1, now);
  return absl::OkStatus();
}

uint32_t Admission::gets() const {
  std::lock_guard lock(state_->mutex);
  return static_cast<uint32_t>(state_->kinds[Index(Bound::kGets)].in_flight);
}
uint32_t Admission::requests(TenantId tenant) const {
  std::lock_guard lock(state_->mutex);
  return state_->of_tenants[tenant];
}
uint64_t Admission::queued_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->queued_bytes;
}
uint64_t Admission::pinned_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->pinned.bytes();
}
uint64_t Admission::reserved_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->reserved_bytes;
}

}  // namespace kvist
