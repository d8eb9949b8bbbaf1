#include "cachestore/block.h"

#include <algorithm>
#include <cstring>

#include "cachestore/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace kvist {

uint64_t StripedGauge::Sum() const {
  uint64_t sum = 0;
  for (const Stripe& stripe : stripes_) sum += stripe.value.load(std::memory_order_relaxed);
  return sum;
}

Space::Space(std::unique_ptr<Arena> arena, size_t tenants)
    : arena_(std::move(arena)),
      host_base_(arena_->base()),
      capacity_bytes_(arena_->size_bytes()),
      tenants_(tenants),
      held_(new Held[tenants]),
      allocator_(capacity_bytes_) {
  Poison({0, capacity_bytes_});
}

Space::Space(std::shared_ptr<const void> memory, uint64_t capacity_bytes, size_t tenants)
    : memory_(std::move(memory)),
      host_base_(nullptr),
      capacity_bytes_(capacity_bytes),
      tenants_(tenants),
      held_(new Held[tenants]),
      allocator_(capacity_bytes) {}

Space::~Space() { Unpoison({0, capacity_bytes_}); }

void Space::Poison(const Extent& extent) const {
  if (host_base_ != nullptr) ASAN_POISON_MEMORY_REGION(host_base_ + extent.offset, extent.size_bytes);
}

void Space::Unpoison(const Extent& extent) const {
  if (host_base_ != nullptr) ASAN_UNPOISON_MEMORY_REGION(host_base_ + extent.offset, extent.size_bytes);
}

// Under AddressSanitizer free space is poisoned: a reader that kept a pointer past its pin is caught in the act.
std::optional<Extents> Space::Take(uint64_t size_bytes) {
  std::optional<Extents> extents = allocator_.Take(size_bytes);
  if (extents) {
    for (const Extent& extent : *extents) Unpoison(extent);
  }
  return extents;
}

void Space::Return(const Extents& extents) {
  for (const Extent& extent : extents) Poison(extent);
  allocator_.Return(extents);
}

void Space::Shrink(Extents& extents, uint64_t size_bytes) {
  uint64_t offset = 0;
  const uint64_t kept = Allocator::RoundUp(size_bytes);
  for (const Extent& extent : extents) {
    const uint64_t kept_here = std::min(extent.size_bytes, kept - std::min(kept, offset));
    Poison({extent.offset + kept_here, extent.size_bytes - kept_here});
    offset += extent.size_bytes;
  }
  allocator_.Shrink(extents, size_bytes);
}

Block::Block(std::shared_ptr<Space> space, const Key& key, const BlockTraits& traits)
    : expires_ns_(absl::ToUnixNanos(traits.expires)),
      spare_(traits.spare && expires()),
      key_(key),
      group_(traits.group.bytes),
      space_(std::move(space)) {
  static_assert(sizeof(Block) == 256, "a block's node is four cache lines");
  space_->live_blocks.fetch_add(1, std::memory_order_relaxed);
  space_->held(key_.tenant).blocks.fetch_add(1, std::memory_order_relaxed);
}

Block::Room Block::TakeSpace(uint64_t size_bytes, uint64_t quota_bytes) {
  // Counted before it is taken, so that several writers together never pass the quota.
  std::atomic<uint64_t>& held_bytes = space_->held(key_.tenant).bytes;
  const uint64_t charge = Allocator::RoundUp(size_bytes);
  const bool fits = held_bytes.fetch_add(charge, std::memory_order_relaxed) + charge <= quota_bytes;
  std::optional<Extents> extents;
  if (fits) extents = space_->Take(size_bytes);
  if (!extents) {
    held_bytes.fetch_sub(charge, std::memory_order_relaxed);
    return fits ? Room::kNone : Room::kOverQuota;
  }
  extents_ = *std::move(extents);
  size_bytes_ = size_bytes;
  space_->reserved_bytes.fetch_add(charge_bytes(), std::memory_order_relaxed);
  MakePieces();
  return Room::kTaken;
}

void Block::SetContent(const BlockContent& content) {
  tokens_ = static_cast<uint16_t>(std::min(content.tokens, BlockContent::kMaxTokens));
  plain_units_ = static_cast<uint32_t>(std::min<uint64_t>(content.plain_bytes / kPlainUnit, UINT32_MAX));
}

void Block::MakePieces() {
  pieces_.clear();
  if (space_->host_base() == nullptr) return;
  uint64_t left = size_bytes_;
  for (const Extent& extent : extents_) {
    const uint64_t here = std::min(left, extent.size_bytes);
    pieces_.emplace_back(space_->host_base() + extent.offset, here);
    left -= here;
  }
  Check(left == 0, "the extents of a block hold the block");
}

void Block::CopyIn(uint64_t offset, absl::Span<const uint8_t> bytes) {
  for (const Extent& extent : extents_) {
    if (bytes.empty()) return;
    if (offset >= extent.size_bytes) {
      offset -= extent.size_bytes;
      continue;
    }
    const uint64_t here = std::min<uint64_t>(bytes.size(), extent.size_bytes - offset);
    std::memcpy(space_->host_base() + extent.offset + offset, bytes.data(), here);
    bytes.remove_prefix(here);
    offset = 0;
  }
  Check(bytes.empty(), "a write stays inside its block");
}

bool Block::FlipForTest(uint64_t offset, uint8_t mask) {
  if (offset >= size_bytes_) return false;
  for (const Extent& extent : extents_) {
    if (offset < extent.size_bytes) {
      space_->host_base()[extent.offset + offset] ^= mask;
      return true;
    }
    offset -= extent.size_bytes;
  }
  return false;
}

void Block::Finish(uint64_t size_bytes) {
  const uint64_t before = charge_bytes();
  if (Allocator::RoundUp(size_bytes) < before) space_->Shrink(extents_, size_bytes);
  size_bytes_ = size_bytes;
  reserved_ = false;
  MakePieces();
  space_->held(key_.tenant).bytes.fetch_sub(before - charge_bytes(), std::memory_order_relaxed);
  space_->reserved_bytes.fetch_sub(before, std::memory_order_relaxed);
  space_->used_bytes.fetch_add(charge_bytes(), std::memory_order_relaxed);
  space_->tokens.fetch_add(tokens_, std::memory_order_relaxed);
  space_->plain_units.fetch_add(plain_units_, std::memory_order_relaxed);
}

void Block::Pin() {
  const uint64_t before = state_.fetch_add(kPin, std::memory_order_acquire);
  Check((before & kIndexed) != 0, "only an indexed block is pinned");
  if (before < kPin) space_->pinned_bytes.Add(key_.Prefix64(), charge_bytes());
}

void Block::Unpin() {
  // The gauge is corrected while our pin still keeps the block alive; once the word has changed, it may be gone.
  uint64_t before = state_.load(std::memory_order_relaxed);
  for (;;) {
    Check(before >= kPin, "a pin is dropped once");
    const bool last = before < 2 * kPin;
    if (last) space_->pinned_bytes.Subtract(key_.Prefix64(), charge_bytes());
    if (state_.compare_exchange_weak(before, before - kPin, std::memory_order_acq_rel, std::memory_order_relaxed)) {
      break;
    }
    if (last) space_->pinned_bytes.Add(key_.Prefix64(), charge_bytes());
  }
  if (before == kPin) Dispose(this);
}

void Block::Prolong(const BlockTraits& traits) {
  expires_ns_.store(absl::ToUnixNanos(traits.expires), std::memory_order_relaxed);
  spare_.store(traits.spare && expires(), std::memory_order_relaxed);
}

bool Block::TryRemoveUnpinned() {
  uint64_t expected = kIndexed;
  return state_.compare_exchange_strong(expected, 0, std::memory_order_acq_rel);
}

bool Block::Remove() {
  const uint64_t before = state_.fetch_sub(kIndexed, std::memory_order_acq_rel);
  Check((before & kIndexed) != 0, "a block leaves the index once");
  return before == kIndexed;
}

void Block::Dispose(Block* block) {
  const std::shared_ptr<Space> space = block->space_;
  const Extents extents = std::move(block->extents_);
  std::atomic<uint64_t>& account = block->reserved_ ? space->reserved_bytes : space->used_bytes;
  const uint64_t charge_bytes = block->charge_bytes();
  Space::Held& held = space->held(block->key_.tenant);
  if (!block->reserved_) {
    space->tokens.fetch_sub(block->tokens_, std::memory_order_relaxed);
    space->plain_units.fetch_sub(block->plain_units_, std::memory_order_relaxed);
  }
  delete block;
  space->live_blocks.fetch_sub(1, std::memory_order_relaxed);
  held.blocks.fetch_sub(1, std::memory_order_relaxed);
  if (extents.empty()) return;
  account.fetch_sub(charge_bytes, std::memory_order_relaxed);
  space->Return(extents);
  held.bytes.fetch_sub(charge_bytes);  // last: what the quota lets another take is free by then
}

}  // namespace kvist
