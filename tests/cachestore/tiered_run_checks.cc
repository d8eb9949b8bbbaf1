// What TieredRun looks at while nothing moves, and the sabotage that these looks must see.
#include <algorithm>
#include <chrono>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cachestore/allocator.h"
#include "tests/cachestore/tiered_run.h"

namespace kvist::testing {

bool TieredRun::Eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

// --- Checks where nothing moves ---

TieredRun::Listing TieredRun::List(BlockStore& store) {
  Listing listed;
  uint64_t cursor = 0;
  do {
    const auto scanned = store.Scan(cursor, 1 + Pick(2 * kKeys));
    if (!Expect(scanned.ok(), "a scan failed")) break;
    for (const ScannedBlock& block : scanned->blocks) {
      const bool once = listed.emplace(numbers_.at(block.key), block.size_bytes).second;
      Expect(once, absl::StrCat("block ", block.key.Hex(), " is listed twice"));
    }
    cursor = scanned->next;
  } while (cursor != 0 && wrong().empty());
  return listed;
}

void TieredRun::CheckAtRest() {
  if (is_held_) HoldOrResume();
  const bool rests =
      Eventually([&] { return store_->moves_are_done() && (failed_ || store_->tiers().late_copies == 0); });
  if (!Expect(rests, "moves do not end")) return;
  NoteLoss();
  Expect(!store_->DropExpired(), "so few blocks expire at once");
  last_figures_ = store_->tiers();
  const Listing all = List(*store_), host = List(store_->host());
  Listing both = host;
  CheckTier(Tier::kHost, host, last_figures_.host, kHostBytes);
  if (!lost()) {
    const Listing device = List(*store_->device());
    CheckTier(Tier::kDevice, device, last_figures_.device, kDeviceBytes);
    CheckStaging();
    both.insert(device.begin(), device.end());
  }
  Expect(all == both, "a scan of the store lists other blocks than those of its tiers");
  for (const auto& [number, size_bytes] : all) {
    const LifeRef life = model_.SeeHit(number);
    if (life == nullptr) return;
    Expect(life->bytes.size() == size_bytes, "a block is listed with another size");
  }
  const StoreStats sum = *store_->Stats();
  Expect(sum.used_bytes == last_figures_.host.used_bytes + last_figures_.device.used_bytes, "the sum of used bytes");
  Expect(sum.blocks == last_figures_.host.blocks + last_figures_.device.blocks, "the sum of blocks");
  CheckContent(all);
}

void TieredRun::CheckTier(Tier tier, const Listing& listed, const StoreStats& stats, uint64_t capacity_bytes) {
  const std::string name = tier == Tier::kHost ? "host: " : "device: ";
  uint64_t used = 0, reserved = 0, pinned = 0;
  for (const auto& [number, size_bytes] : listed) used += Allocator::RoundUp(size_bytes);
  std::set<const Life*> seen;
  for (const Held& held : held_) {
    const bool in_tier = tier == Tier::kHost ? held.tier == tier : held.device != nullptr;
    if (!in_tier || !seen.insert(held.life.get()).second) continue;
    const uint64_t charge = Allocator::RoundUp(held.life->bytes.size());
    pinned += charge;
    if (model_.IsAlive(*held.life)) {
      Expect(listed.contains(held.life->number), name + "a pinned block is gone");
    } else {
      used += charge;  // until its last pin
    }
  }
  for (const auto& [number, open] : open_) {
    const bool in_tier = tier == Tier::kHost ? open.host != nullptr : open.device != nullptr;
    if (in_tier) reserved += Allocator::RoundUp(open.life->bytes.size());
  }
  Expect(stats.blocks == listed.size(), name + "blocks");
  Expect(stats.reserved_bytes == reserved, name + "reserved bytes");
  Expect(stats.used_bytes + stats.reserved_bytes <= capacity_bytes, name + "more than its capacity");
  // What an ended block is charged whom only a lease holds, the model does not know.
  Expect(model_.leases().empty() ? stats.used_bytes == used : stats.used_bytes >= used,
         absl::StrCat(name, "used bytes: ", stats.used_bytes, ", its blocks have ", used));
  Expect(model_.leases().empty() ? stats.pinned_bytes == pinned : stats.pinned_bytes >= pinned,
         absl::StrCat(name, "pinned bytes: ", stats.pinned_bytes, ", held are ", pinned));
}

void TieredRun::CheckStaging() {
  uint64_t taken = 0;
  for (const Held& held : held_) {
    if (held.host != nullptr && held.tier == Tier::kDevice) taken += Allocator::RoundUp(held.host->size_bytes());
  }
  Expect(last_figures_.staging_bytes - last_figures_.staging_free_bytes == taken, "staging that nobody holds is taken");
}

void TieredRun::CheckContent(const Listing& listed) {
  for (const Held& held : held_) CheckBytes(held);
  for (const auto& [number, size_bytes] : listed) {
    auto lookup = store_->Get(keys_[number], /*touch=*/false);
    NoteLoss();
    if (!lookup.ok() || model_.device_lost()) continue;  // staging that readers hold, or a hasty device
    const LifeRef life = model_.Find(number);
    if (!Expect(lookup->block != nullptr && life != nullptr, "a listed block is a miss")) return;
    CheckBytes({.host = std::move(lookup->block), .device = nullptr, .tier = lookup->tier, .life = life});
  }
  for (const auto& [id, lease] : model_.leases()) {
    for (const LifeRef& life : lease.blocks) {
      const bool there = listed.contains(life->number) || !model_.IsAlive(*life) || model_.device_lost();
      Expect(there, absl::StrCat("block ", life->number, " is leased and gone"));
    }
  }
}

void TieredRun::End() {
  while (!held_.empty()) DropHeld(held_.size() - 1);
  open_.clear();
  PassTime(60'000);
  CheckAtRest();
  for (uint64_t i = 0; i < kKeys; ++i) Expect(store_->Erase(keys_[i]).ok(), "an erase failed");
  const StoreStats stats = *store_->Stats();
  Expect(stats.used_bytes + stats.reserved_bytes + stats.pinned_bytes + stats.blocks + stats.leases == 0,
         absl::StrCat("in the end ", stats.used_bytes, " bytes are used, ", stats.pinned_bytes, " pinned"));
  store_.reset();
  Expect(device_->allocated_bytes() == 0, "device memory was not given back");
}

// --- What the judge must see ---

bool TieredRun::Sabotaged() {
  if (sabotaged_ || Pick(10) != 0) return false;
  switch (sabotage_) {
    case Sabotage::kNone:
      break;
    case Sabotage::kFlippedByte:
      sabotaged_ = FlipAByte();
      break;
    case Sabotage::kChangedUnderAPin:
      sabotaged_ = ChangeUnderAPin();
      break;
    case Sabotage::kLostLease:
      sabotaged_ = LoseALease();
      break;
    case Sabotage::kRevived:
      sabotaged_ = ReviveABlock();
      break;
    case Sabotage::kLeakedPin:
      sabotaged_ = LeakAPin();
  }
  return sabotaged_;
}

bool TieredRun::FlipAByte() {
  return std::any_of(model_.alive().begin(), model_.alive().end(), [&](const auto& block) {
    const LifeRef& life = block.second;
    return store_->host().FlipBitsForTest(life->key, life->bytes.size() - 1, 1);
  });
}

bool TieredRun::ChangeUnderAPin() {
  for (const Held& held : held_) {
    if (held.device == nullptr) continue;
    const DeviceAddress first = held.device->extents().front().address;
    device_->Write(first, {static_cast<uint8_t>(device_->Read(first, 1)[0] ^ 1)});
    return true;
  }
  return false;
}

bool TieredRun::LoseALease() {
  for (const auto& [id, lease] : model_.leases()) {
    for (const LifeRef& life : lease.blocks) {
      if (!model_.IsAlive(*life) || life->pins > 0) continue;
      const bool on_host = *store_->host().Erase(life->key), on_device = *store_->device()->Erase(life->key);
      return on_host || on_device;
    }
  }
  return false;
}

bool TieredRun::ReviveABlock() {
  if (last_erased_ == nullptr || model_.Find(last_erased_->number) != nullptr) return false;
  const std::string& bytes = last_erased_->bytes;
  auto again = store_->host().Reserve(last_erased_->key, bytes.size());
  if (!again.ok()) return false;
  const auto* first = reinterpret_cast<const uint8_t*>(bytes.data());
  return (*again)->Write(0, absl::MakeConstSpan(first, bytes.size())).ok() && (*again)->Commit(bytes.size()).ok();
}

bool TieredRun::LeakAPin() {
  if (held_.empty() || held_.back().tier != Tier::kHost) return false;
  leaked_ = std::move(held_.back().host);
  --held_.back().life->pins;
  held_.pop_back();
  return true;
}

}  // namespace kvist::testing
