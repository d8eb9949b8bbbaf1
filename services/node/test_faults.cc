#include "services/node/test_faults.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

absl::StatusOr<uint64_t> Number(const std::string& name, const std::string& text, uint64_t least, uint64_t most) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < least || value > most) {
    return absl::InvalidArgumentError(absl::StrCat(name, "='", text, "' is no number of ", least, " to ", most));
  }
  return value;
}

absl::StatusOr<std::vector<ScannedBlock>> AllBlocks(HostTier* store) {
  std::vector<ScannedBlock> blocks;
  uint64_t cursor = 0;
  do {
    absl::StatusOr<BlockStore::ScanResult> scan = store->Scan(cursor, 1024);
    if (!scan.ok()) return scan.status();
    blocks.insert(blocks.end(), scan->blocks.begin(), scan->blocks.end());
    cursor = scan->next;
  } while (cursor != 0);
  // The store's own order depends on its history; a seed must not.
  std::sort(blocks.begin(), blocks.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  return blocks;
}

absl::StatusOr<uint64_t> FlipAtChance(HostTier* store, uint64_t count, uint64_t seed) {
  absl::StatusOr<std::vector<ScannedBlock>> blocks = AllBlocks(store);
  if (!blocks.ok()) return blocks.status();
  std::mt19937_64 random(seed);
  std::shuffle(blocks->begin(), blocks->end(), random);
  uint64_t flipped = 0;
  for (const ScannedBlock& block : *blocks) {
    if (flipped == count) break;
    flipped += store->FlipBitsForTest(block.key, random() % block.size_bytes, uint8_t(1u << random() % 8));
  }
  return flipped;
}

absl::StatusOr<uint64_t> FlipOne(HostTier* store, const std::string& hex, uint64_t offset, uint64_t mask) {
  const bool all_hex = std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return std::isxdigit(c); });
  if (hex.size() != 2 * Key::kBytes || !all_hex) {
    return absl::InvalidArgumentError(absl::StrCat("key='", hex, "' is no key of 64 hex digits"));
  }
  Key key;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::memcpy(key.bytes.data(), bytes.data(), Key::kBytes);
  return store->FlipBitsForTest(key, offset, static_cast<uint8_t>(mask)) ? 1 : 0;
}

}  // namespace

absl::StatusOr<std::string> FlipBits(HostTier* store,
                                     const std::function<std::string(const std::string& name)>& parameter) {
  const bool one = !parameter("key").empty();
  const absl::StatusOr<uint64_t> first =
      one ? Number("offset", parameter("offset"), 0, UINT32_MAX) : Number("blocks", parameter("blocks"), 1, UINT32_MAX);
  if (!first.ok()) return first.status();
  const absl::StatusOr<uint64_t> second =
      one ? Number("mask", parameter("mask"), 1, 255) : Number("seed", parameter("seed"), 0, UINT64_MAX);
  if (!second.ok()) return second.status();
  const absl::StatusOr<uint64_t> flipped =
      one ? FlipOne(store, parameter("key"), *first, *second) : FlipAtChance(store, *first, *second);
  if (!flipped.ok()) return flipped.status();
  return absl::StrCat("{\"flipped\":", *flipped, "}\n");
}

}  // namespace kvist
