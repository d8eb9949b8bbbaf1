// The suite that every BlockStore passes: it states block_store.h sentence by sentence.
//
// Method: a store comes from a StoreKind; a test only speaks BlockStore to it, plus the clock its leases run by. To add
// a store, write a StoreUnderTest and one line in a test binary that links :block_store_conformance:
//   INSTANTIATE_TEST_SUITE_P(Host, BlockStoreConformance, testing::Values(StoreKind{"host", MakeHostTier}),
//   StoreKindName);
#ifndef KVIST_TESTS_CONFORMANCE_BLOCK_STORE_CONFORMANCE_H_
#define KVIST_TESTS_CONFORMANCE_BLOCK_STORE_CONFORMANCE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/block_store.h"

namespace kvist {

// For stores that accept any bytes: others for every key and seed.
std::string RandomBytes(const Key& key, size_t size_bytes, uint64_t seed);

// A fresh, empty store with what a test needs around it.
class StoreUnderTest {
 public:
  // Every store is made with these.
  static constexpr absl::Duration kMaxLease = absl::Seconds(60);
  static constexpr double kMaxPinnedFraction = 0.5;

  virtual ~StoreUnderTest() = default;
  virtual BlockStore& store() = 0;
  // The bytes of a block that the store accepts under `key`: nearly `approximate_bytes` long (at most a quarter off),
  // and different for every seed.
  virtual std::string MakeBlock(const Key& key, size_t approximate_bytes, uint64_t seed) = 0;
  // The clock that leases and expiry run by.
  virtual void Advance(absl::Duration by) = 0;
  virtual absl::Time Now() const = 0;

  // The most that can be reserved at once. A store of several tiers has more capacity than this.
  virtual uint64_t writable_bytes() { return store().Stats()->capacity_bytes; }

  // What a store may do otherwise and still be one.
  // False: Get hands out copies, so a reader keeps its bytes but holds no space in the store.
  virtual bool get_holds_space() const { return true; }
  // False: what was written into a reservation has left already and is not to be read back.
  virtual bool reservations_are_readable() const { return true; }
  // False: the store is a node's, seen through the wire, which carries no listing, no traits back, and when and for
  // whom a block went by Explain only.
  virtual bool is_local() const { return true; }
  // False: Stats leaves erased_blocks, expired_leases and refused_reservations at 0.
  virtual bool counts_all_events() const { return true; }
};

struct StoreKind {
  std::string name;
  std::function<std::unique_ptr<StoreUnderTest>(uint64_t capacity_bytes)> make;
  std::string why_absent = "";  // not empty: it cannot be made here, and every case says so and is skipped
  friend void PrintTo(const StoreKind& kind, std::ostream* out) { *out << kind.name; }
};

inline std::string StoreKindName(const testing::TestParamInfo<StoreKind>& kind) { return kind.param.name; }

class BlockStoreConformance : public testing::TestWithParam<StoreKind> {
 protected:
  static constexpr uint64_t kCapacity = uint64_t{4} << 20;
  static constexpr size_t kBlock = size_t{64} << 10;

  void SetUp() override {
    if (!GetParam().why_absent.empty()) GTEST_SKIP() << GetParam().why_absent;
    Open(kCapacity);
  }
  // Starts over with another capacity.
  void Open(uint64_t capacity_bytes);

  BlockStore& store() { return under_test_->store(); }
  StoreUnderTest& under_test() { return *under_test_; }

  static Key KeyOf(uint64_t number);
  static std::vector<Key> Chain(uint64_t first, size_t length);
  std::string BlockOf(uint64_t number, size_t approximate_bytes = kBlock, uint64_t seed = 0);

  // Reserves, writes in parts and commits.
  absl::Status Put(uint64_t number, size_t approximate_bytes = kBlock, uint64_t seed = 0);
  absl::Status PutWith(uint64_t number, const BlockTraits& traits);
  void PutAll(uint64_t first, size_t count);  // fails the test if one is refused
  // Puts blocks from `first` on until the store has evicted `evictions` more; returns the number after the last.
  uint64_t FillUntilEvicted(uint64_t first, uint64_t evictions);

  bool Has(uint64_t number);  // by a Match of one key without lease: touches
  MissReason WhyMissing(uint64_t number);
  StoreStats Stats();
  std::vector<ScannedBlock> ScanAll(size_t limit);  // one pass, so many blocks a call
  MatchResult Match(const std::vector<Key>& chain, absl::Duration lease_ttl = absl::ZeroDuration());
  // True once `condition` holds; a store on another thread may need a moment to let go.
  static bool Eventually(const std::function<bool()>& condition);

 private:
  std::unique_ptr<StoreUnderTest> under_test_;
};

std::string BytesOf(const PinnedBlock& block);
absl::Span<const uint8_t> AsBytes(const std::string& text);

}  // namespace kvist

#endif  // KVIST_TESTS_CONFORMANCE_BLOCK_STORE_CONFORMANCE_H_
