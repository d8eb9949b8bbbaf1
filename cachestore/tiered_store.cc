#include "cachestore/tiered_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

// A cursor: one bit for the tier, 18 of the number of demotions when the scan began, and the tier's own cursor.
constexpr uint64_t kScansDevice = uint64_t{1} << 62;
constexpr int kStartShift = 44;
constexpr uint32_t kStartMask = (uint32_t{1} << 18) - 1;
constexpr uint64_t kTierCursor = (uint64_t{1} << kStartShift) - 1;

StoreStats Sum(const StoreStats& a, const StoreStats& b) {
  StoreStats sum;
  for (const auto field :
       {&StoreStats::capacity_bytes, &StoreStats::used_bytes, &StoreStats::pinned_bytes, &StoreStats::reserved_bytes,
        &StoreStats::blocks, &StoreStats::leases, &StoreStats::evicted_blocks, &StoreStats::evicted_bytes,
        &StoreStats::erased_blocks, &StoreStats::expired_blocks, &StoreStats::expired_leases,
        &StoreStats::refused_reservations, &StoreStats::tokens, &StoreStats::plain_bytes}) {
    sum.*field = a.*field + b.*field;
  }
  return sum;
}

// Of two tiers' memories of one key: a writer under way, else the later end.
bool TellsMore(MissReason miss, int64_t gone_ns, MissReason than_miss, int64_t than_gone_ns) {
  if (than_miss == MissReason::kBeingWritten) return false;
  return miss == MissReason::kBeingWritten || gone_ns > than_gone_ns;
}

int64_t WhenGone(const std::optional<Removal>& removal) { return removal ? removal->when_ns : Removal().when_ns; }

}  // namespace

// The blocks of a lease, by tier, deepest first.
struct TieredStore::Leased {
  TierCore& host;
  TierCore& device;
  LeasedBlocks on_host = {}, on_device = {};

  void End() {
    host.EndLease(on_host);
    device.EndLease(on_device);
    on_host.clear();
    on_device.clear();
  }
};

TieredStore::TieredStore(std::unique_ptr<HostTier> host, std::unique_ptr<DeviceTier> device, const MoveRules& rules)
    : host_(std::move(host)), device_(std::move(device)) {
  if (device_ == nullptr) return;
  device_core().on_evicted = [this](const Key& key) {
    CallTime time(&host_core().clock);
    if (host_core().index.Probe(key, time).size_bytes == 0) lost_to_eviction_.fetch_add(1, std::memory_order_relaxed);
  };
  state_.store(DeviceState::kReady, std::memory_order_release);
  mover_ = std::make_unique<TierMover>(host_.get(), device_.get(), rules,
                                       [this](const absl::Status& status) { NoteOutcome(status); });
  mover_->Start();
}

TieredStore::~TieredStore() {
  if (mover_ != nullptr) mover_->End();
}

// --- Reads ---

// One variable is returned, on every path: then HostTier builds it in the caller's place, and it is never moved.
absl::StatusOr<Lookup> TieredStore::Get(const Key& key, bool touch) {
  absl::StatusOr<Lookup> lookup = host_->Get(key, touch);
  if (lookup.ok() && lookup->block == nullptr && device_ != nullptr) GetBelow(key, touch, lookup);
  return lookup;
}

void TieredStore::GetBelow(const Key& key, bool touch, absl::StatusOr<Lookup>& lookup) {
  if (live()) {
    const uint32_t demotions = mover_->demotions();
    absl::StatusOr<Lookup> below = device_->Get(key, touch);
    if (!below.ok()) NoteOutcome(below.status());
    if (!below.ok() && !absl::IsUnavailable(below.status())) {
      lookup = std::move(below);
      return;
    }
    if (below.ok() && below->block != nullptr) {
      NoteOutcome(absl::OkStatus());
      lookup = std::move(below);
      return;
    }
    // It may have come down since the host was asked.
    if (mover_->demotions() != demotions) lookup = host_->Get(key, touch);
    if (!lookup.ok() || lookup->block != nullptr) return;
    if (below.ok() &&
        TellsMore(below->miss, absl::ToUnixNanos(below->gone), lookup->miss, absl::ToUnixNanos(lookup->gone))) {
      lookup = std::move(below);
      return;
    }
  }
  CallTime time(&host_core().clock);
  const std::optional<Removal> lost = LostWith(key, time);
  if (!lost || !TellsMore(lost->cause, lost->when_ns, lookup->miss, absl::ToUnixNanos(lookup->gone))) return;
  lookup->miss = lost->cause;
  lookup->gone = FromNanos(lost->when_ns);
  lookup->made_room_for = Key();
}

// A lost device's index is kept: it knows which blocks went with it.
std::optional<Removal> TieredStore::LostWith(const Key& key, CallTime& time) {
  if (device_state() != DeviceState::kLost) return std::nullopt;
  if (device_core().index.Probe(key, time).size_bytes == 0) return std::nullopt;
  return Removal{.cause = MissReason::kTierLost, .when_ns = lost_ns_.load(), .made_room_for = {}};
}

absl::StatusOr<DeviceLookup> TieredStore::GetOnDevice(const Key& key) {
  if (device_state() == DeviceState::kLost) return absl::UnavailableError(DeviceTrouble());
  DeviceLookup lookup;
  if (live()) {
    absl::StatusOr<DeviceLookup> on_device = device_->GetOnDevice(key);
    if (!on_device.ok() || on_device->pin != nullptr) return on_device;
  }
  CallTime time(&host_core().clock);
  const Found found = Find(key, time);
  lookup.miss = found.miss;
  if (found.home == Home::kNowhere) return lookup;
  lookup.tier = Tier::kHost;
  if (live()) mover_->NoteHit(key, found.size_bytes);
  return lookup;
}

TieredStore::Found TieredStore::Find(const Key& key, CallTime& time) {
  const uint32_t demotions = live() ? mover_->demotions() : 0;
  std::optional<Removal> above_gone, below_gone;
  const Index::Found above = host_core().index.Probe(key, time, &above_gone);
  if (above.size_bytes > 0) return {.home = Home::kHost, .size_bytes = above.size_bytes, .tokens = above.tokens};
  Index::Found below;
  if (live()) {
    below = device_core().index.Probe(key, time, &below_gone);
    if (below.size_bytes > 0) return {.home = Home::kDevice, .size_bytes = below.size_bytes, .tokens = below.tokens};
    if (mover_->demotions() != demotions) return Find(key, time);  // it may have come down since the host was asked
  } else if ((below_gone = LostWith(key, time))) {
    below.miss = below_gone->cause;
  }
  const bool more = TellsMore(below.miss, WhenGone(below_gone), above.miss, WhenGone(above_gone));
  return {.miss = more ? below.miss : above.miss};
}

// --- Match and leases ---

absl::StatusOr<MatchResult> TieredStore::Match(absl::Span<const Key> chain, absl::Duration lease_ttl) {
  if (device_ == nullptr) return host_->Match(chain, lease_ttl);
  const bool wants_lease = lease_ttl > absl::ZeroDuration();
  CallTime time(&host_core().clock);
  time.Exact();
  if (wants_lease) {
    host_core().DropExpired(time);
    device_core().DropExpired(time);
  }
  MatchResult result;
  for (const Key& key : chain) {
    const Found found = Find(key, time);
    if (found.home == Home::kNowhere) {
      result.miss = found.miss;
      break;
    }
    ++result.hits;
    result.hit_bytes += found.size_bytes;
    result.hit_tokens += found.tokens;
  }
  if (wants_lease && result.hits > 0) GrantLease(chain, lease_ttl, time, result);
  TouchBoth(chain.subspan(0, result.hits), time);  // what the lease holds is in no order until it ends
  return result;
}

void TieredStore::TouchBoth(absl::Span<const Key> hits, CallTime& time) {
  for (size_t i = hits.size(); i-- > 0;) {
    host_core().index.Touch(hits[i], time);
    device_core().index.Touch(hits[i], time);
  }
}

Block* TieredStore::PinForLease(const Key& key, CallTime& time, Leased& leased, bool& over_budget) {
  const uint32_t demotions = mover_->demotions();
  Index::Found found = leased.host.index.PinForLease(key, time);
  over_budget = found.over_budget;
  if (found.block != nullptr) leased.on_host.push_back(found.block);
  if (found.block != nullptr || over_budget || !live()) return found.block;
  found = leased.device.index.PinForLease(key, time);
  over_budget = found.over_budget;
  if (found.block != nullptr) leased.on_device.push_back(found.block);
  if (found.block != nullptr || over_budget || mover_->demotions() == demotions) return found.block;
  return PinForLease(key, time, leased, over_budget);  // it may have come down since the host was asked
}

// As TierCore's: deepest first, and where a block has gone since it was counted the chain ends.
void TieredStore::GrantLease(absl::Span<const Key> chain, absl::Duration lease_ttl, CallTime& time,
                             MatchResult& result) {
  MatchResult granted = result;
  granted.hit_bytes = granted.hit_tokens = 0;
  Leased leased{host_core(), device_core()};
  for (size_t i = result.hits; i-- > 0;) {
    bool over_budget = false;
    const Block* block = PinForLease(chain[i], time, leased, over_budget);
    if (over_budget) return leased.End();
    if (block == nullptr) {
      leased.End();
      granted = MatchResult{};
      granted.hits = i;
      granted.miss = Find(chain[i], time).miss;
      continue;
    }
    granted.hit_bytes += block->size_bytes();
    granted.hit_tokens += block->tokens();
  }
  result = granted;
  if (leased.on_host.empty() && leased.on_device.empty()) return;
  const absl::Duration ttl = std::min({lease_ttl, host_core().max_lease, device_core().max_lease});
  result.lease = Grant(leased, time.Exact() + absl::ToInt64Nanoseconds(ttl));
  if (result.lease != LeaseId{}) result.lease_ttl = ttl;
}

// One id in both tiers: the host's, where it holds something. Ids of the device tier never meet those of the host.
LeaseId TieredStore::Grant(Leased& leased, int64_t deadline_ns) {
  LeaseId id;
  if (!leased.on_host.empty()) {
    id = host_core().leases.Grant(leased.on_host, deadline_ns);
    if (id == LeaseId{}) {
      leased.End();
      return id;
    }
  }
  if (leased.on_device.empty()) return id;
  if (id == LeaseId{}) {
    id = device_core().leases.Grant(leased.on_device, deadline_ns);
  } else if (!device_core().leases.GrantAs(id, leased.on_device, deadline_ns)) {
    leased.on_host = host_core().leases.Take(id);
    id = LeaseId{};
  }
  if (id == LeaseId{}) leased.End();
  return id;
}

TenantHolding TieredStore::Held(Tier tier, TenantId tenant) const {
  if (tier == Tier::kHost) return host_core().Held(tenant);
  return tier == Tier::kDevice && live() ? device_core().Held(tenant) : TenantHolding();
}

absl::Status TieredStore::Release(LeaseId lease) {
  if (device_ != nullptr) device_core().Release(lease);
  return host_->Release(lease);
}

// --- Writes ---

// What is there is prolonged in host, device, host: a move looks at its source once more after its target has a name
// (TierMover::Publish). So a promotion that is missed on the device has had its source set before, and a demotion that is
// missed in the host tier the first time has a name by the second, or its source was set before it looked.
absl::StatusOr<std::unique_ptr<Reservation>> TieredStore::Reserve(const Key& key, size_t size_bytes,
                                                                  const BlockTraits& traits) {
  if (!live()) return host_->Reserve(key, size_bytes, traits);
  CallTime time(&host_core().clock);
  const Index::Found below = device_core().index.Probe(key, time);
  if (below.size_bytes > 0 || below.miss == MissReason::kBeingWritten) {
    host_core().index.ProlongPresent(key, traits, time);
    if (ProlongOnDevice(key, traits)) {
      host_core().index.ProlongPresent(key, traits, time);
      return absl::AlreadyExistsError(absl::StrCat(
          "block ", key.Hex(), below.size_bytes > 0 ? " is stored" : " is being written", " in device memory"));
    }
  }
  auto reservation = host_->Reserve(key, size_bytes, traits);
  if (absl::IsAlreadyExists(reservation.status())) ProlongOnDevice(key, traits);
  return reservation;
}

bool TieredStore::ProlongOnDevice(const Key& key, const BlockTraits& traits) {
  CallTime time(&host_core().clock);
  return device_core().index.ProlongPresent(key, traits, time);
}

absl::StatusOr<std::unique_ptr<DeviceReservation>> TieredStore::ReserveOnDevice(const Key& key, size_t size_bytes,
                                                                                const BlockTraits& traits) {
  if (!live()) return absl::UnavailableError(device_ == nullptr ? "there is no device tier" : DeviceTrouble());
  CallTime time(&host_core().clock);
  if (host_core().index.ProlongPresent(key, traits, time)) {
    ProlongOnDevice(key, traits);
    return absl::AlreadyExistsError(absl::StrCat("block ", key.Hex(), " is stored or being written in host memory"));
  }
  auto reservation = device_->ReserveOnDevice(key, size_bytes, traits);
  if (absl::IsAlreadyExists(reservation.status())) host_core().index.ProlongPresent(key, traits, time);
  mover_->NoteRoomTaken();
  return reservation;
}

// Erases, calls off, erases again: see tier_mover.h.
absl::StatusOr<bool> TieredStore::Erase(const Key& key, MissReason why) {
  absl::StatusOr<bool> erased = host_->Erase(key, why);
  if (device_ == nullptr || !erased.ok()) return erased;
  // From a lost device, too: its index tells why blocks are gone. But that is no block any more.
  *erased |= device_core().Erase(key, why).value_or(false) && live();
  mover_->Forget(key);
  *erased |= host_->Erase(key, why).value_or(false);
  *erased |= device_core().Erase(key, why).value_or(false) && live();
  return erased;
}

bool TieredStore::DropDeviceCopy(const Key& key) {
  if (!live()) return false;
  CallTime time(&host_core().clock);
  if (host_core().index.Probe(key, time).size_bytes == 0) return false;
  mover_->Forget(key);
  const bool dropped = device_core().Erase(key, MissReason::kDamaged).value_or(false);
  if (dropped) dropped_copies_.fetch_add(1, std::memory_order_relaxed);
  return dropped;
}

// --- The whole ---

absl::StatusOr<BlockStore::ScanResult> TieredStore::Scan(uint64_t cursor, size_t limit) {
  if (device_ == nullptr) return host_->Scan(cursor, limit);
  const uint32_t demotions = mover_->demotions();
  const uint32_t start =
      cursor == 0 ? demotions : demotions - ((demotions - static_cast<uint32_t>(cursor >> kStartShift)) & kStartMask);
  const uint64_t start_bits = uint64_t{start & kStartMask} << kStartShift;
  if (cursor >> 63 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("scan: cursor ", cursor, " is none that Scan has returned"));
  }
  if ((cursor & kScansDevice) == 0) {
    absl::StatusOr<ScanResult> scanned = host_->Scan(cursor & kTierCursor, limit);
    if (!scanned.ok()) return scanned;
    if (scanned->next != 0) {
      scanned->next |= start_bits;
    } else if (live()) {
      scanned->next = kScansDevice | start_bits;
    }
    return scanned;
  }
  absl::StatusOr<ScanResult> scanned = device_->Scan(cursor & kTierCursor, limit);
  if (!scanned.ok()) return scanned;
  CallTime time(&host_core().clock);
  if (!live()) return ScanResult{};
  std::erase_if(scanned->blocks, [&](const ScannedBlock& block) { return IsElsewhere(block, start, time); });
  if (scanned->next != 0) scanned->next |= kScansDevice | start_bits;
  return scanned;
}

// Whether the host's part of the scan has listed it for certain: the host had it before the scan began.
bool TieredStore::IsElsewhere(const ScannedBlock& block, uint32_t scan_start, CallTime& time) {
  const std::optional<Block::Place> place = host_core().index.PlaceOf(block.key, time);
  if (!place) return false;
  return place->moved == 0 || static_cast<int32_t>(place->moved - scan_start) <= 0;
}

absl::StatusOr<StoreStats> TieredStore::Stats() {
  if (!live()) return host_->Stats();
  return Sum(host_core().Stats(), device_core().Stats());
}

bool TieredStore::DropExpired() {
  const bool more = host_->DropExpired();
  return (device_ != nullptr && device_->DropExpired()) || more;
}

TierFigures TieredStore::tiers() {
  TierFigures figures;
  figures.host = host_core().Stats();
  figures.host_hits = host_core().index.gets();
  figures.host_life = host_core().index.life();
  figures.state = device_state();
  if (device_ == nullptr) return figures;
  if (live()) figures.device = device_core().Stats();
  figures.device_hits = device_core().index.gets();
  figures.device_life = device_core().index.life();
  figures.moves = mover_->figures();
  figures.lost_to_eviction = lost_to_eviction_.load(std::memory_order_relaxed);
  figures.dropped_copies = dropped_copies_.load(std::memory_order_relaxed);
  figures.staging_bytes = device_->staging_bytes();
  figures.staging_free_bytes = device_->staging_free_bytes();
  figures.late_copies = device_->late_copies();
  std::lock_guard<std::mutex> lock(end_mutex_);
  figures.why_lost = why_lost_;
  return figures;
}

// --- The device's end ---

void TieredStore::NoteOutcome(const absl::Status& status) {
  if (status.ok()) deadlines_in_a_row_.store(0, std::memory_order_relaxed);
  if (absl::IsUnavailable(status)) return Lose(std::string(status.message()));
  if (!absl::IsDeadlineExceeded(status)) return;
  if (deadlines_in_a_row_.fetch_add(1) + 1 < kDeadlinesUntilLost) return;
  Lose(absl::StrCat(kDeadlinesUntilLost, " copies in a row were not done in time"));
}

void TieredStore::Lose(const std::string& why) {
  {
    std::lock_guard<std::mutex> lock(end_mutex_);
    if (!live()) return;
    why_lost_ = why;
    lost_ns_ = host_core().clock.Read();
    state_.store(DeviceState::kLost, std::memory_order_release);
  }
  mover_->Stop();
}

std::string TieredStore::DeviceTrouble() {
  if (device_state() != DeviceState::kLost) return "";
  const int64_t ago_ns = host_core().clock.Read() - lost_ns_.load();
  std::lock_guard<std::mutex> lock(end_mutex_);
  return absl::StrCat("device tier lost ",
                      absl::FormatDuration(absl::Trunc(absl::Nanoseconds(ago_ns), absl::Seconds(1))),
                      " ago: ", why_lost_);
}

}  // namespace kvist
