// One run of random operations on a store of two tiers, judged by tiered_model.h: what the property test repeats over seeds.
//
// The store's moves run on its own thread and end when they end, so one seed is the same operations, not always the same
// run. At rest, every 25 steps, nothing moves and every figure must be exact.
//
// Threads one, beside those of the store and of the emulated device.
#ifndef KVIST_TESTS_CACHESTORE_TIERED_RUN_H_
#define KVIST_TESTS_CACHESTORE_TIERED_RUN_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cachestore/tiered_store.h"
#include "tests/cachestore/tiered_model.h"
#include "tests/device/emulated_device.h"

namespace kvist::testing {

enum class Sabotage : uint8_t { kNone, kFlippedByte, kChangedUnderAPin, kLostLease, kRevived, kLeakedPin };

class TieredRun {
 public:
  // Small, so that both tiers are full all the time; a block is at most the share of the device that may be promoted.
  static constexpr uint64_t kHostBytes = uint64_t{256} << 10, kDeviceBytes = uint64_t{128} << 10;
  static constexpr uint64_t kStagingBytes = kDeviceBytes, kKeys = 60, kLargest = 16000;
  static constexpr int kSteps = 2000;

  // `sabotage` is done behind the store's back, once, after a fifth of the run.
  TieredRun(uint64_t seed, Sabotage sabotage);
  ~TieredRun() { device_->Resume(); }  // whatever is on its streams may end

  // What was wrong; "" if nothing was.
  std::string Go(bool fails);
  // What came about, so that a run that was too easy is seen.
  const TieredModel& model() const { return model_; }
  const TierFigures& last_figures() const { return last_figures_; }
  bool sabotaged() const { return sabotaged_; }
  bool hasty() const { return hasty_; }

 private:
  struct Open {
    std::unique_ptr<Reservation> host;
    std::unique_ptr<DeviceReservation> device;
    LifeRef life;
  };
  struct Held {
    BlockRef host;  // of either tier: bytes that the host reads
    std::unique_ptr<DevicePin> device;
    Tier tier = Tier::kNone;
    LifeRef life;
  };

  const std::string& wrong() const { return model_.wrong(); }
  uint64_t Pick(uint64_t count) { return random_() % count; }
  absl::Time Now() const { return absl::FromUnixMillis(now_ms_.load()); }
  bool Expect(bool holds, const std::string& what) { return model_.Expect(holds, what); }
  bool lost() const { return store_->device_state() == DeviceState::kLost; }
  static bool Eventually(const std::function<bool()>& condition);
  // A hasty device misses deadlines on its own, and may be given up for it.
  void NoteLoss();
  std::string RandomBytes();
  BlockTraits RandomTraits(uint64_t number);

  // --- Writes ---

  void Reserve(bool on_device);
  void SeePresent(uint64_t number, const BlockTraits& traits, bool moving);
  void SeeRefusal(bool on_device, bool moving);
  void FinishWrite();
  void Erase();

  // --- Reads ---

  void Get();
  // A move may still have the name of a block whose life has ended.
  static bool BeingMoved(MissReason miss, bool moving) { return miss == MissReason::kBeingWritten && moving; }

  void GetOnDevice();

  // A copy in the staging pins nothing but itself.
  static bool Pins(const Held& held) { return held.device != nullptr || held.tier == Tier::kHost; }
  void Hold(Held held);
  void DropHeld(size_t at);
  void CheckBytes(const Held& held);
  void Match();
  void Release();

  // --- Time and the device ---

  void PassTime(int64_t ms);
  void HoldOrResume();
  void FailDevice();
  void Step();

  // --- Checks where nothing moves ---

  using Listing = std::map<uint64_t, uint64_t>;  // number of a block, its size
  Listing List(BlockStore& store);
  void CheckAtRest();
  void CheckTier(Tier tier, const Listing& listed, const StoreStats& stats, uint64_t capacity_bytes);
  void CheckStaging();

  // Every block that is listed, every lease, every pin.
  void CheckContent(const Listing& listed);
  void End();

  // --- What the judge must see ---

  // Does its mischief once, when it can. True in the step in which it did.
  bool Sabotaged();
  bool FlipAByte();
  bool ChangeUnderAPin();
  bool LoseALease();
  bool ReviveABlock();
  bool LeakAPin();

  std::mt19937_64 random_;
  const bool hasty_;  // its device has so little time that some copies miss their deadline
  const Sabotage sabotage_;
  std::atomic<int64_t> now_ms_{1'700'000'000'000};
  std::vector<Key> keys_;  // by number
  std::map<Key, uint64_t> numbers_;
  const std::shared_ptr<EmulatedDevice> device_ = EmulatedDevice::Create({});
  std::unique_ptr<TieredStore> store_;
  TieredModel model_;
  std::map<uint64_t, Open> open_;
  std::vector<Held> held_;
  TierFigures last_figures_;
  LifeRef last_erased_;
  BlockRef leaked_;
  uint64_t lives_ = 0;
  bool is_held_ = false, failed_ = false, sabotaged_ = false;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_CACHESTORE_TIERED_RUN_H_
