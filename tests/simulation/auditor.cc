#include "tests/simulation/auditor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist::simulation {
namespace {

constexpr size_t kMostHeld = 16;
constexpr uint64_t kGranule = 64;  // a block's charge is rounded up to so many bytes

uint64_t Charge(uint64_t size_bytes) { return (size_bytes + kGranule - 1) / kGranule * kGranule; }

std::vector<uint8_t> BytesOf(const PinnedBlock& block) {
  std::vector<uint8_t> bytes;
  for (const absl::Span<const uint8_t> piece : block.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
  return bytes;
}

}  // namespace

void Auditor::Fail(const SimNode& node, const std::string& what) {
  scheduler_->Fail(absl::StrCat("node ", node.name(), ": ", what));
}

void Auditor::Look(SimNode& node) {
  for (auto held = held_.begin(); held != held_.end();) {
    if (held->node != &node) {
      ++held;
      continue;
    }
    const bool over = held->life != node.life() || !node.up() || node.host()->Now() >= held->until;
    Check(*held);
    held = over ? held_.erase(held) : std::next(held);
  }
  if (!node.up()) return;
  CheckFigures(node);
  if (held_.size() >= kMostHeld || journal_->put.empty()) return;
  if (scheduler_->Chance(0.3)) Pin(node);
  if (scheduler_->Chance(0.3)) Lease(node);
}

void Auditor::Check(const Held& held) {
  SimNode& node = *held.node;
  const bool lives = node.up() && held.life == node.life() && node.host()->Now() < held.until;
  for (const Block& block : held.blocks) {
    if (journal_->damaged.contains(block.key)) continue;
    ++checks_;
    if (block.pin != nullptr && BytesOf(*block.pin) != block.bytes) {
      Fail(node, absl::StrCat("the bytes of ", block.key.Hex(), " changed under a pin"));
    }
    if (!lives || journal_->MayBeGone(block.key)) continue;
    const absl::StatusOr<Lookup> found = node.store()->Get(block.key, /*touch=*/false);
    if (!found.ok()) Fail(node, found.status().ToString());
    if (found->block == nullptr) {
      Fail(node, absl::StrCat(block.key.Hex(), " is gone (", static_cast<int>(found->miss), ") while it is ",
                              block.pin != nullptr ? "pinned" : "leased"));
    }
    if (BytesOf(*found->block) != block.bytes) Fail(node, absl::StrCat(block.key.Hex(), " is another block by now"));
  }
}

void Auditor::Pin(SimNode& node) {
  const Key& key = journal_->put[scheduler_->Below(journal_->put.size())];
  absl::StatusOr<Lookup> found = node.store()->Get(key, /*touch=*/false);
  if (!found.ok()) Fail(node, found.status().ToString());
  // A copy with a deadline of its own goes when that comes, pinned or not.
  if (found->block == nullptr || found->traits.expires != absl::InfiniteFuture()) return;
  Held held{&node, node.life(), node.host()->Now() + absl::Milliseconds(scheduler_->Below(20000)), {}};
  std::vector<uint8_t> bytes = BytesOf(*found->block);
  held.blocks.push_back({key, std::move(found->block), std::move(bytes)});
  held_.push_back(std::move(held));
}

void Auditor::Lease(SimNode& node) {
  const size_t first = scheduler_->Below(journal_->put.size());
  const size_t count = std::min<size_t>(4, journal_->put.size() - first);
  const std::vector<Key> chain(journal_->put.begin() + static_cast<ptrdiff_t>(first),
                               journal_->put.begin() + static_cast<ptrdiff_t>(first + count));
  const absl::Time now = node.host()->Now();
  const absl::StatusOr<MatchResult> match = node.store()->Match(chain, absl::Milliseconds(scheduler_->Below(60000)));
  if (!match.ok()) Fail(node, match.status().ToString());
  if (match->lease.value == 0) return;
  if (match->lease_ttl > absl::Seconds(30)) Fail(node, "a lease was granted for longer than the node allows");
  Held held{&node, node.life(), now + match->lease_ttl, {}};
  for (size_t i = 0; i < match->hits; ++i) {
    const absl::StatusOr<Lookup> found = node.store()->Get(chain[i], /*touch=*/false);
    if (!found.ok()) Fail(node, found.status().ToString());
    if (found->block == nullptr) {
      if (exact_) Fail(node, absl::StrCat(chain[i].Hex(), " was leased and is not there"));
      continue;
    }
    if (found->traits.expires != absl::InfiniteFuture()) continue;
    held.blocks.push_back({chain[i], nullptr, BytesOf(*found->block)});
  }
  held_.push_back(std::move(held));
}

uint64_t Auditor::ListedBytes(SimNode& node, uint64_t* blocks) {
  uint64_t bytes = 0, cursor = 0;
  *blocks = 0;
  do {
    const absl::StatusOr<BlockStore::ScanResult> scan = node.store()->Scan(cursor, 1024);
    if (!scan.ok()) Fail(node, scan.status().ToString());
    for (const ScannedBlock& block : scan->blocks) bytes += Charge(block.size_bytes);
    *blocks += scan->blocks.size();
    cursor = scan->next;
  } while (cursor != 0);
  return bytes;
}

void Auditor::CheckFigures(SimNode& node) {
  const absl::StatusOr<StoreStats> stats = node.store()->Stats();
  if (!stats.ok()) Fail(node, stats.status().ToString());
  uint64_t blocks;
  const uint64_t listed = ListedBytes(node, &blocks);
  const std::string figures =
      absl::StrCat(stats->used_bytes, " bytes used, ", stats->pinned_bytes, " pinned, ", stats->reserved_bytes,
                   " reserved, of ", stats->capacity_bytes, "; ", blocks, " blocks of ", listed, " bytes are listed");
  if (stats->used_bytes + stats->reserved_bytes > stats->capacity_bytes) Fail(node, "beyond its capacity: " + figures);
  if (!exact_) return;
  const bool sum = listed <= stats->used_bytes && stats->used_bytes <= listed + stats->pinned_bytes;
  if (!sum || stats->blocks != blocks) Fail(node, "its figures are not those of its blocks: " + figures);
}

std::string Auditor::Unrest(SimNode& node) {
  const absl::StatusOr<StoreStats> stats = node.store()->Stats();
  if (!stats.ok()) return stats.status().ToString();
  uint64_t blocks;
  const uint64_t listed = ListedBytes(node, &blocks);
  const v1::Load load = node.core()->handlers()->load();
  if (stats->pinned_bytes == 0 && stats->reserved_bytes == 0 && stats->leases == 0 && stats->used_bytes == listed &&
      load.streams() == 0 && load.queued_bytes() == 0) {
    return "";
  }
  return absl::StrCat(stats->pinned_bytes, " bytes pinned, ", stats->reserved_bytes, " reserved, ", stats->leases,
                      " leases, ", stats->used_bytes, " bytes used for blocks of ", listed, ", ", load.streams(),
                      " streams with ", load.queued_bytes(), " bytes to send");
}

}  // namespace kvist::simulation
