#include "tests/conformance/block_store_conformance.h"
#include <algorithm>
#include <string>

#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

namespace kvist {

std::string RandomBytes(const Key& key, size_t size_bytes, uint64_t seed) {
  std::mt19937_64 random(key.Prefix64() ^ (seed * 0x9E3779B97F4A7C15u));
  std::string block(size_bytes, '\0');
  for (size_t i = 0; i < block.size(); i += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(block.data() + i, &word, std::min(sizeof(word), block.size() - i));
  }
  return block;
}
absl::Span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string BytesOf(const PinnedBlock& block) {
  std::string bytes;
  for (const absl::Span<const uint8_t>& piece : block.pieces()) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return bytes;
}

void BlockStoreConformance::Open(uint64_t capacity_bytes) {
  under_test_.reset();
  under_test_ = GetParam().make(capacity_bytes);
  ASSERT_NE(under_test_, nullptr);
}

Key BlockStoreConformance::KeyOf(uint64_t number) {
  std::mt19937_64 random(number);
  Key key;
  for (size_t i = 0; i < key.bytes.size(); i += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(key.bytes.data() + i, &word, sizeof(word));
  }
  return key;
}

std::vector<Key> BlockStoreConformance::Chain(uint64_t first, size_t length) {
  std::vector<Key> chain;
  for (size_t i = 0; i < length; ++i) chain.push_back(KeyOf(first + i));
  return chain;
}

std::string BlockStoreConformance::BlockOf(uint64_t number, size_t approximate_bytes, uint64_t seed) {
  return under_test_->MakeBlock(KeyOf(number), approximate_bytes, seed);
}

absl::Status BlockStoreConformance::PutWith(uint64_t number, const BlockTraits& traits) {
  const std::string block = BlockOf(number);
  auto reservation = store().Reserve(KeyOf(number), block.size(), traits);
  if (!reservation.ok()) return reservation.status();
  if (absl::Status written = (*reservation)->Write(0, AsBytes(block)); !written.ok()) return written;
  return (*reservation)->Commit(block.size());
}

std::vector<ScannedBlock> BlockStoreConformance::ScanAll(size_t limit) {
  std::vector<ScannedBlock> all;
  uint64_t cursor = 0;
  do {
    auto scanned = store().Scan(cursor, limit);
    EXPECT_TRUE(scanned.ok()) << scanned.status();
    if (!scanned.ok()) return all;
    EXPECT_LE(scanned->blocks.size(), limit);
    all.insert(all.end(), scanned->blocks.begin(), scanned->blocks.end());
    cursor = scanned->next;
  } while (cursor != 0);
  return all;
}

absl::Status BlockStoreConformance::Put(uint64_t number, size_t approximate_bytes, uint64_t seed) {
  const std::string block = BlockOf(number, approximate_bytes, seed);
  auto reservation = store().Reserve(KeyOf(number), block.size());
  if (!reservation.ok()) return reservation.status();
  const size_t half = block.size() / 2;
  for (const auto& [offset, length] : {std::pair{half, block.size() - half}, std::pair{size_t{0}, half}}) {
    absl::Status written = (*reservation)->Write(offset, AsBytes(block).subspan(offset, length));
    if (!written.ok()) return written;
  }
  return (*reservation)->Commit(block.size());
}

void BlockStoreConformance::PutAll(uint64_t first, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const absl::Status status = Put(first + i);
    ASSERT_TRUE(status.ok()) << "block " << first + i << ": " << status;
  }
}

uint64_t BlockStoreConformance::FillUntilEvicted(uint64_t first, uint64_t evictions) {
  const uint64_t target = Stats().evicted_blocks + evictions;
  uint64_t next = first;
  while (Stats().evicted_blocks < target) {
    const absl::Status status = Put(next);
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok() || ++next - first > 10000) break;
  }
  return next;
}

bool BlockStoreConformance::Has(uint64_t number) { return Match({KeyOf(number)}).hits == 1; }

MissReason BlockStoreConformance::WhyMissing(uint64_t number) {
  auto lookup = store().Get(KeyOf(number));
  EXPECT_TRUE(lookup.ok()) << lookup.status();
  return lookup.ok() ? lookup->miss : MissReason::kNone;
}

StoreStats BlockStoreConformance::Stats() {
  auto stats = store().Stats();
  EXPECT_TRUE(stats.ok()) << stats.status();
  return stats.ok() ? *stats : StoreStats{};
}

MatchResult BlockStoreConformance::Match(const std::vector<Key>& chain, absl::Duration lease_ttl) {
  auto result = store().Match(chain, lease_ttl);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : MatchResult{};
}

bool BlockStoreConformance::Eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace kvist
