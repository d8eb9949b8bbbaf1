#include "tests/cachestore/tiered_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist::testing {
namespace {

Key KeyOf(uint64_t number) {
  std::mt19937_64 random(number);
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

absl::Span<const uint8_t> SpanOf(const std::string& bytes) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

TieredRun::TieredRun(uint64_t seed, Sabotage sabotage)
    : random_(seed), hasty_(sabotage == Sabotage::kNone && seed % 4 == 3), sabotage_(sabotage) {
  for (uint64_t i = 0; i < kKeys; ++i) {
    keys_.push_back(KeyOf(i));
    numbers_[keys_[i]] = i;
  }
  HostTierOptions host;
  host.capacity_bytes = kHostBytes;
  host.clock = [this] { return Now(); };
  host.index_shards = size_t{1} << (seed % 4);
  host.max_lease = absl::Seconds(20);
  DeviceTierOptions device;
  static_cast<TierRules&>(device) = host;
  device.device = device_;
  device.capacity_bytes = kDeviceBytes;
  device.staging_bytes = kStagingBytes;
  device.copy_deadline = hasty_ ? absl::Milliseconds(2) : absl::Seconds(60);
  MoveRules rules;
  rules.kept_free_fraction = 0.125 * (1 + seed % 3);
  store_ = std::make_unique<TieredStore>(*HostTier::Create(host), *DeviceTier::Create(device), rules);
}

std::string TieredRun::Go(bool fails) {
  const int end_of_device = fails ? static_cast<int>(kSteps / 2 + Pick(kSteps / 3)) : -1;
  for (int step = 0; step < kSteps && wrong().empty(); ++step) {
    if (step == end_of_device) FailDevice();
    Step();
    if (step % 25 == 24) CheckAtRest();
    if (step >= kSteps / 5 && Sabotaged()) CheckAtRest();
    if (!wrong().empty()) return absl::StrCat("step ", step, ": ", wrong());
  }
  End();
  return wrong();
}

void TieredRun::NoteLoss() {
  if (!lost()) return;
  Expect(hasty_ || failed_, "a device was lost that did nothing wrong");
  model_.LoseDevice();
}

std::string TieredRun::RandomBytes() {
  std::string bytes(1 + Pick(kLargest), '\0');
  std::mt19937_64 content(++lives_);
  for (char& byte : bytes) byte = static_cast<char>(content() >> 56);
  return bytes;
}

BlockTraits TieredRun::RandomTraits(uint64_t number) {
  BlockTraits traits{.group = KeyOf(1000 + number / 10)};
  if (Pick(4) == 0) traits = {traits.group, Now() + absl::Milliseconds(1 + Pick(40000)), Pick(2) == 0};
  return traits;
}

// --- Writes ---

void TieredRun::Reserve(bool on_device) {
  const uint64_t number = Pick(kKeys);
  const auto life = std::make_shared<Life>(Life{number, keys_[number], RandomBytes(), RandomTraits(number)});
  const bool moving = !store_->moves_are_done();
  Open open{.host = nullptr, .device = nullptr, .life = life};
  absl::Status status;
  if (on_device) {
    auto reserved = store_->ReserveOnDevice(keys_[number], life->bytes.size(), life->traits);
    status = reserved.status();
    if (reserved.ok()) open.device = *std::move(reserved);
  } else {
    auto reserved = store_->Reserve(keys_[number], life->bytes.size(), life->traits);
    status = reserved.status();
    if (reserved.ok()) open.host = *std::move(reserved);
  }
  NoteLoss();
  if (absl::IsAlreadyExists(status)) return SeePresent(number, life->traits, moving);
  if (absl::IsResourceExhausted(status)) return SeeRefusal(on_device, moving);
  if (absl::IsUnavailable(status)) {
    Expect(on_device && lost(), "a reservation is unavailable while the device is there");
    return;
  }
  if (!Expect(status.ok(), absl::StrCat("reserve: ", status.ToString()))) return;
  // A writer to a device that is lost has lost its name, too.
  const auto other = open_.find(number);
  Expect(other == open_.end() || (lost() && other->second.device != nullptr), "two writers of one key");
  if (model_.Find(number) != nullptr) model_.SeeMiss(number, MissReason::kEvicted, false);
  open_[number] = std::move(open);
}

void TieredRun::SeePresent(uint64_t number, const BlockTraits& traits, bool moving) {
  const auto open = open_.find(number);
  if (open != open_.end()) return model_.Prolong(open->second.life->traits, traits);
  if (const LifeRef life = model_.Find(number)) return model_.Prolong(life->traits, traits);
  Expect(moving, absl::StrCat("block ", number, " is said to be there after its end, and nothing moves"));
}

void TieredRun::SeeRefusal(bool on_device, bool moving) {
  bool held = moving || !held_.empty() || !model_.leases().empty() || !open_.empty();
  held = held || store_->tiers().late_copies > 0;
  Expect(held, absl::StrCat("refused on the ", on_device ? "device" : "host", " while nothing is held"));
}

void TieredRun::FinishWrite() {
  if (open_.empty()) return;
  auto at = std::next(open_.begin(), Pick(open_.size()));
  const Open open = std::move(at->second);
  open_.erase(at);
  if (Pick(5) == 0) return;  // abandoned
  const absl::Span<const uint8_t> bytes = SpanOf(open.life->bytes);
  const size_t kept = Pick(3) == 0 ? 1 + Pick(bytes.size()) : bytes.size();
  absl::Status committed;
  if (open.host != nullptr) {
    for (size_t offset = 0, part = 0; offset < bytes.size(); offset += part) {
      part = std::min<size_t>(1 + Pick(20000), bytes.size() - offset);
      Expect(open.host->Write(offset, bytes.subspan(offset, part)).ok(), "a write failed");
    }
    committed = open.host->Commit(kept);
  } else {
    size_t offset = 0;
    for (const DeviceExtent& extent : open.device->extents()) {
      device_->Write(extent.address, bytes.subspan(offset, extent.size_bytes));
      offset += extent.size_bytes;
    }
    committed = open.device->Commit(kept);
  }
  Expect(committed.ok(), absl::StrCat("commit: ", committed.ToString()));
  open.life->bytes.resize(kept);
  if (open.device == nullptr || !lost()) model_.Begin(open.life, Now());
}

void TieredRun::Erase() {
  const uint64_t number = Pick(kKeys);
  const MissReason why = Pick(3) == 0 ? MissReason::kDamaged : MissReason::kErased;
  const absl::StatusOr<bool> erased = store_->Erase(keys_[number], why);
  if (!Expect(erased.ok(), "an erase failed")) return;
  if (*erased) {
    const LifeRef life = model_.SeeHit(number);
    model_.End(number, why);
    if (life != nullptr) last_erased_ = life;
  } else if (model_.Find(number) != nullptr) {
    model_.SeeMiss(number, MissReason::kEvicted, false);
  }
}

// --- Reads ---

void TieredRun::Get() {
  const uint64_t number = Pick(kKeys);
  // A read of what is on the device alone waits for it.
  if (is_held_ && store_->host().Get(keys_[number], false)->block == nullptr && !hasty_) return;
  const bool moving = !store_->moves_are_done();
  auto lookup = store_->Get(keys_[number], Pick(4) != 0);
  NoteLoss();
  if (absl::IsDeadlineExceeded(lookup.status())) {
    Expect(hasty_, "a patient read was not served in time");
    return;
  }
  if (absl::IsResourceExhausted(lookup.status())) {
    Expect(moving || !held_.empty() || hasty_, "no staging room while nobody holds any");
    return;
  }
  if (!Expect(lookup.ok(), absl::StrCat("get: ", lookup.status().ToString()))) return;
  if (lookup->block == nullptr)
    return model_.SeeMiss(number, lookup->miss, open_.contains(number) || BeingMoved(lookup->miss, moving));
  const LifeRef life = model_.SeeHit(number);
  if (life == nullptr) return;
  Expect(lookup->traits == life->traits, absl::StrCat("block ", number, " has other traits"));
  Hold({.host = std::move(lookup->block), .device = nullptr, .tier = lookup->tier, .life = life});
}

void TieredRun::GetOnDevice() {
  const uint64_t number = Pick(kKeys);
  const bool moving = !store_->moves_are_done();
  auto lookup = store_->GetOnDevice(keys_[number]);
  NoteLoss();
  if (absl::IsUnavailable(lookup.status())) {
    Expect(lost(), "a read on the device is unavailable while it is there");
    return;
  }
  if (!Expect(lookup.ok(), "a read on the device failed")) return;
  if (lookup->tier == Tier::kNone)
    return model_.SeeMiss(number, lookup->miss, open_.contains(number) || BeingMoved(lookup->miss, moving));
  const LifeRef life = model_.SeeHit(number);
  if (life == nullptr || lookup->pin == nullptr) return;
  Hold({.host = nullptr, .device = std::move(lookup->pin), .tier = Tier::kDevice, .life = life});
}

void TieredRun::Hold(Held held) {
  CheckBytes(held);
  held.life->pins += Pins(held);
  held_.push_back(std::move(held));
  if (Pick(3) != 0 || held_.size() > 8) DropHeld(held_.size() - 1);
}

void TieredRun::DropHeld(size_t at) {
  CheckBytes(held_[at]);
  held_[at].life->pins -= Pins(held_[at]);
  std::swap(held_[at], held_.back());
  held_.pop_back();
}

void TieredRun::CheckBytes(const Held& held) {
  std::string bytes;
  if (held.host != nullptr) {
    for (const auto& piece : held.host->pieces()) bytes.append(piece.begin(), piece.end());
  } else if (!model_.device_lost()) {  // else the memory is the device's own affair
    for (const DeviceExtent& extent : held.device->extents()) {
      const std::vector<uint8_t> part = device_->Read(extent.address, extent.size_bytes);
      bytes.append(part.begin(), part.end());
    }
  } else {
    return;
  }
  Expect(bytes == held.life->bytes, absl::StrCat("block ", held.life->number, " has other bytes than were written"));
}

void TieredRun::Match() {
  const uint64_t first = Pick(kKeys);
  std::vector<Key> chain;
  for (uint64_t i = first; i < std::min(first + 1 + Pick(10), kKeys); ++i) chain.push_back(keys_[i]);
  const absl::Duration ttl = Pick(2) == 0 ? absl::ZeroDuration() : absl::Seconds(1 + Pick(30));
  const bool moving = !store_->moves_are_done();
  const absl::StatusOr<MatchResult> match = store_->Match(chain, ttl);
  if (!Expect(match.ok() && match->hits <= chain.size(), "a match failed")) return;
  uint64_t hit_bytes = 0;
  TieredModel::Lease lease{.deadline = Now() + match->lease_ttl, .blocks = {}};
  for (uint64_t i = first; i < first + match->hits; ++i) {
    const LifeRef life = model_.SeeHit(i);
    if (life == nullptr) return;
    hit_bytes += life->bytes.size();
    lease.blocks.push_back(life);
  }
  Expect(match->hit_bytes == hit_bytes, "a match has other bytes than its hits");
  const uint64_t missed = first + match->hits;
  if (match->hits < chain.size()) {
    model_.SeeMiss(missed, match->miss, open_.contains(missed) || BeingMoved(match->miss, moving));
  }
  if (match->lease != LeaseId{}) model_.leases()[match->lease.value] = std::move(lease);
}

void TieredRun::Release() {
  auto& leases = model_.leases();
  uint64_t id = Pick(1000);
  if (!leases.empty() && Pick(4) != 0) {
    const auto at = std::next(leases.begin(), Pick(leases.size()));
    id = at->first;
    leases.erase(at);
  }
  Expect(store_->Release(LeaseId{id}).ok(), "a release failed");
}

// --- Time and the device ---

void TieredRun::PassTime(int64_t ms) {
  now_ms_ += ms;
  model_.PassTo(Now());
  if (Pick(2) == 0) Expect(!store_->DropExpired(), "so few blocks expire at once");
}

void TieredRun::HoldOrResume() {
  is_held_ = !is_held_;
  is_held_ ? device_->Hold() : device_->Resume();
}

void TieredRun::FailDevice() {
  failed_ = true;
  device_->Fail("an illegal address");
  Expect(Eventually([&] { return lost() && store_->moves_are_done(); }), "a failed device was not dropped");
  NoteLoss();
}

void TieredRun::Step() {
  PassTime(1);
  switch (Pick(24)) {
    case 0:
      return Erase();
    case 1:
      return Release();
    case 2:
      return PassTime(Pick(5000));
    case 3:
      return HoldOrResume();
    case 4:
      return held_.empty() ? void() : DropHeld(Pick(held_.size()));
    case 5:
    case 6:
      return Match();
    case 7:
    case 8:
    case 9:
      return Get();
    case 10:
    case 11:
      return Reserve(/*on_device=*/true);
    case 12:
    case 13:
    case 14:
      return Reserve(/*on_device=*/false);
    case 15:
    case 16:
    case 17:
    case 18:
      return FinishWrite();
    default:
      return GetOnDevice();
  }
}

}  // namespace kvist::testing
