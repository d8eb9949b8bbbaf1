// Goal    No order of calls makes the host tier lose a byte, evict what is held, or say a figure that is not true.
// Input   One byte for the number of shards, then acts of a few bytes each.
// Method  Against a plain model: blocks in a map, the order of eviction in a list, every figure of Stats recounted
//         after every act. The clock stands still between acts.
#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cachestore/allocator.h"
#include "cachestore/host_tier.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate stored_gate("a block was stored"), aborted("a write was aborted"), evicted_gate("a block was evicted"),
    refused_gate("a reservation was refused"), leased_gate("a lease was granted"), too_much("a lease was refused"),
    lease_over("a lease ran out"), expired_gate("a block expired"), held_gate("an erased block was still held"),
    scanned_gate("a scan in several steps"), prolonged_gate("a block was prolonged");

constexpr uint64_t kCapacity = uint64_t{128} << 10;
constexpr uint64_t kKeys = 12;
constexpr int kMostActs = 120;
constexpr absl::Duration kMaxLease = absl::Seconds(20);

Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>((number + 1) * 37 * (i + 1));
  return key;
}

struct ModelBlock {
  uint64_t number = 0;  // of its key
  char fill = 0;
  size_t size_bytes = 0;
  BlockTraits traits;
  uint64_t gets = 0;
  int refs = 0, leases = 0;
  bool indexed = true;
  uint64_t charge() const { return Allocator::RoundUp(size_bytes); }
  bool held() const { return refs + leases > 0; }
};
using ModelRef = std::shared_ptr<ModelBlock>;

struct Gone {
  MissReason why = MissReason::kNeverStored;
  absl::Time when = absl::InfinitePast();
  Key made_room_for;
};

struct Writing {
  std::unique_ptr<Reservation> reservation;
  size_t size_bytes = 0;
  BlockTraits traits;
};

class Script {
 public:
  explicit Script(fuzz::Input* input) : input_(input) {
    HostTierOptions options;
    options.capacity_bytes = kCapacity;
    options.clock = [this] { return now_; };
    options.max_lease = kMaxLease;
    options.index_shards = size_t{1} << input->Below(4);
    options.max_blocks = 64;
    options.remembered_removals = 1024;
    options.huge_pages = false;
    tier_ = *HostTier::Create(options);
  }

  void Run() {
    for (int i = 0; i < kMostActs && input_->left() > 0; ++i) {
      Act();
      CheckFigures();
    }
    CheckBlocks();
    LetGo();
  }

 private:
  void Act() {
    switch (input_->Below(9)) {
      case 0:
      case 1:
        return Reserve();
      case 2:
        return Finish();
      case 3:
        return Get();
      case 4:
        return DropRef();
      case 5:
        return Match();
      case 6:
        return Release();
      case 7:
        return Erase();
      default:
        now_ += absl::Seconds(input_->Below(16));
        return Expire();
    }
  }

  // --- The model ---
  void Touch(const ModelRef& block) {
    const auto at = std::find(order_.begin(), order_.end(), block);
    if (at != order_.end()) order_.splice(order_.end(), order_, at);
  }
  void Remove(const ModelRef& block, const Gone& gone) {
    order_.remove(block);
    block->indexed = false;
    if (block->held()) unnamed_.push_back(block);
    gone_[block->number] = gone;
    stored_.erase(block->number);
  }
  void Evict(const Key& made_room_for) {
    for (size_t seen = 0, count = order_.size(); seen < count; ++seen) {
      const ModelRef oldest = order_.front();
      if (oldest->refs == 0) {
        evicted_bytes_ += oldest->charge();
        return Remove(oldest, {MissReason::kEvicted, now_, made_room_for});
      }
      order_.splice(order_.end(), order_, order_.begin());
    }
    KVIST_HOLDS(false, "a block was evicted, and all were held");
  }
  void EndLease(const std::vector<ModelRef>& blocks) {
    for (const ModelRef& block : blocks) {
      if (--block->leases == 0 && block->indexed) order_.push_back(block);
    }
  }
  void Expire() {
    const std::map<uint64_t, ModelRef> before = stored_;
    for (const auto& [number, block] : before) {
      if (block->traits.expires > now_) continue;
      Remove(block, {MissReason::kExpired, block->traits.expires, {}});
      ++expired_blocks_;
      expired_gate.Pass();
    }
    while (true) {
      const auto first = std::min_element(leases_.begin(), leases_.end(), [](const auto& a, const auto& b) {
        return std::pair(a.second.first, a.first) < std::pair(b.second.first, b.first);
      });
      if (first == leases_.end() || first->second.first > now_) break;
      EndLease(first->second.second);
      leases_.erase(first);
      ++expired_leases_;
      lease_over.Pass();
    }
    KVIST_HOLDS(!tier_->DropExpired(), "more is due than there ever was");
  }
  void CheckMiss(uint64_t number, MissReason why) const {
    if (writing_.contains(number)) return KVIST_HOLDS(why == MissReason::kBeingWritten, "key ", number);
    const auto gone = gone_.find(number);
    const MissReason expected = gone == gone_.end() ? MissReason::kNeverStored : gone->second.why;
    KVIST_HOLDS(why == expected, "key ", number, ": miss ", static_cast<int>(why), ", in truth ",
                static_cast<int>(expected));
  }
  std::vector<ModelRef> Alive() {
    std::erase_if(unnamed_, [](const ModelRef& block) { return !block->held(); });
    std::vector<ModelRef> alive = unnamed_;
    for (const auto& [number, block] : stored_) alive.push_back(block);
    return alive;
  }

  // --- Acts ---
  void Reserve() {
    const uint64_t number = input_->Below(kKeys);
    const size_t size_bytes = 1 + input_->Number(2) * (input_->Flag() ? 2 : 1) % (kCapacity + 64);
    const uint64_t lives_s = input_->Below(32);
    BlockTraits traits{KeyOf(number / 4), lives_s < 16 ? absl::InfiniteFuture() : now_ + absl::Seconds(lives_s - 16),
                       /*spare=*/lives_s > 16 && lives_s % 2 == 1};
    const uint64_t evicted_before = tier_->Stats()->evicted_blocks;
    auto reservation = tier_->Reserve(KeyOf(number), size_bytes, traits);
    for (uint64_t i = evicted_before; i < tier_->Stats()->evicted_blocks; ++i) {
      Evict(KeyOf(number));
      evicted_gate.Pass();
    }
    if (size_bytes > kCapacity || traits.expires <= now_) {
      return KVIST_HOLDS(absl::IsInvalidArgument(reservation.status()), reservation.status().ToString());
    }
    if (stored_.contains(number) || writing_.contains(number)) {
      BlockTraits& present = stored_.contains(number) ? stored_[number]->traits : writing_.find(number)->second.traits;
      if (traits.expires > present.expires) {
        present.expires = traits.expires;
        present.spare = traits.spare;
        prolonged_gate.Pass();
      }
      return KVIST_HOLDS(absl::IsAlreadyExists(reservation.status()), reservation.status().ToString());
    }
    if (reservation.ok()) {
      writing_[number] = {*std::move(reservation), size_bytes, traits};
      return;
    }
    KVIST_HOLDS(absl::IsResourceExhausted(reservation.status()), reservation.status().ToString());
    for (const ModelRef& block : order_) KVIST_HOLDS(block->refs > 0, "refused while a block could be evicted");
    ++refused_;
    refused_gate.Pass();
  }

  void Finish() {
    if (writing_.empty()) return;
    const auto at = std::next(writing_.begin(), static_cast<std::ptrdiff_t>(input_->Below(writing_.size())));
    const uint64_t number = at->first;
    Writing open = std::move(at->second);
    const uint8_t how = input_->Byte();
    const char fill = static_cast<char>(++serial_);
    writing_.erase(at);
    if (how % 8 == 0) return aborted.Pass();
    const std::string bytes(open.size_bytes, fill);
    const size_t border = bytes.size() * how / 256;
    const auto write = [&](size_t from, size_t to) {
      return open.reservation->Write(from, {reinterpret_cast<const uint8_t*>(bytes.data()) + from, to - from});
    };
    KVIST_HOLDS(write(border, bytes.size()).ok() && write(0, border).ok(), "a write inside was refused");
    KVIST_HOLDS(absl::IsOutOfRange(open.reservation->Write(
                    border + 1, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size() - border})),
                "a write beyond the end");
    KVIST_HOLDS(absl::IsInvalidArgument(open.reservation->Commit(bytes.size() + 1)), "a commit of more than reserved");
    const size_t kept = how % 8 == 1 ? 1 + bytes.size() / 3 : bytes.size();
    const size_t committed = std::min(kept, bytes.size());
    const absl::Status status = open.reservation->Commit(committed);
    KVIST_HOLDS(status.ok(), status.ToString());
    KVIST_HOLDS(!open.reservation->Commit(1).ok(), "a reservation was spent twice");
    if (open.traits.expires <= now_) {  // it ran out while it was written
      gone_[number] = {MissReason::kExpired, open.traits.expires, {}};
      ++expired_blocks_;
      return;
    }
    const auto block = std::make_shared<ModelBlock>(
        ModelBlock{.number = number, .fill = fill, .size_bytes = committed, .traits = open.traits});
    stored_[number] = block;
    gone_.erase(number);
    order_.push_back(block);
    stored_gate.Pass();
  }

  void Get() {
    const uint64_t number = input_->Below(kKeys);
    const uint8_t how = input_->Byte();
    const bool touch = (how & 1) != 0;
    auto lookup = tier_->Get(KeyOf(number), touch);
    KVIST_HOLDS(lookup.ok(), lookup.status().ToString());
    const auto stored = stored_.find(number);
    KVIST_HOLDS((lookup->block != nullptr) == (stored != stored_.end()), "key ", number);
    if (lookup->block == nullptr) {
      CheckMiss(number, lookup->miss);
      const auto gone = gone_.find(number);
      if (gone == gone_.end() || writing_.contains(number)) return;
      KVIST_HOLDS(lookup->gone == gone->second.when, "key ", number, " went ", absl::FormatTime(lookup->gone));
      KVIST_HOLDS(lookup->made_room_for == gone->second.made_room_for, "key ", number);
      return;
    }
    const ModelRef& block = stored->second;
    CheckContent(*lookup->block, *block);
    KVIST_HOLDS(lookup->traits == block->traits, "other traits");
    if (touch) {
      Touch(block);
      ++block->gets;
    }
    if ((how & 2) == 0 || refs_.size() >= 8) return;  // let go at once
    ++block->refs;
    refs_.emplace_back(std::move(lookup->block), block);
  }

  void DropRef() {
    if (refs_.empty()) return;
    const size_t at = input_->Below(refs_.size());
    CheckContent(*refs_[at].first, *refs_[at].second);
    if (!refs_[at].second->indexed) held_gate.Pass();
    --refs_[at].second->refs;
    std::swap(refs_[at], refs_.back());
    refs_.pop_back();
  }

  void Match() {
    const uint64_t first = input_->Below(kKeys), count = 1 + input_->Below(6);
    const absl::Duration ttl = absl::Seconds(input_->Below(32));
    std::vector<Key> chain;
    for (uint64_t i = first; i < std::min(first + count, kKeys); ++i) chain.push_back(KeyOf(i));
    std::vector<ModelRef> hits;  // deepest first
    uint64_t hit_bytes = 0, leased_bytes = 0;
    for (uint64_t i = first; i < first + chain.size() && stored_.contains(i); ++i) {
      hits.insert(hits.begin(), stored_[i]);
      hit_bytes += stored_[i]->size_bytes;
    }
    for (const ModelRef& block : Alive()) {
      const bool wanted = std::find(hits.begin(), hits.end(), block) != hits.end();
      if (block->leases > 0 || wanted) leased_bytes += block->charge();
    }
    const auto match = tier_->Match(chain, ttl);
    KVIST_HOLDS(match.ok(), match.status().ToString());
    KVIST_HOLDS(match->hits == hits.size(), match->hits, " hits, in truth ", hits.size());
    KVIST_HOLDS(match->hit_bytes == hit_bytes, match->hit_bytes, " / ", hit_bytes);
    if (hits.size() < chain.size()) CheckMiss(first + hits.size(), match->miss);
    const bool wanted = ttl > absl::ZeroDuration() && !hits.empty();
    const bool granted = wanted && leased_bytes <= kCapacity / 2;
    KVIST_HOLDS((match->lease.value != 0) == granted, leased_bytes, " bytes would be leased");
    KVIST_HOLDS(match->lease_ttl == (granted ? std::min(ttl, kMaxLease) : absl::ZeroDuration()), "the lease's time");
    for (const ModelRef& block : hits) {
      if (!granted) {
        Touch(block);
      } else if (block->leases++ == 0) {
        order_.remove(block);
      }
    }
    if (granted) leases_[match->lease.value] = {now_ + match->lease_ttl, hits};
    if (wanted) (granted ? leased_gate : too_much).Pass();
  }

  void Release() {
    uint64_t id = input_->Number(2);
    if (!leases_.empty() && id % 4 != 0) {
      const auto at = std::next(leases_.begin(), static_cast<std::ptrdiff_t>(id % leases_.size()));
      id = at->first;
      EndLease(at->second.second);
      leases_.erase(at);
    }
    KVIST_HOLDS(tier_->Release(LeaseId{id}).ok(), "release");
  }

  void Erase() {
    const uint64_t number = input_->Below(kKeys);
    const MissReason why = input_->Flag() ? MissReason::kErased : MissReason::kDamaged;
    const auto erased = tier_->Erase(KeyOf(number), why);
    const auto stored = stored_.find(number);
    KVIST_HOLDS(erased.ok() && *erased == (stored != stored_.end()), "key ", number);
    if (!*erased) return;
    Remove(ModelRef(stored->second), {why, now_, {}});
    ++erased_;
  }

  // --- Checks ---
  static void CheckContent(const PinnedBlock& block, const ModelBlock& model) {
    KVIST_HOLDS(block.size_bytes() == model.size_bytes, block.size_bytes(), " bytes of ", model.size_bytes);
    size_t sum = 0;
    for (const absl::Span<const uint8_t> piece : block.pieces()) {
      sum += piece.size();
      KVIST_HOLDS(reinterpret_cast<uintptr_t>(piece.data()) % 64 == 0, "a piece that is not aligned");
      for (const size_t at : {size_t{0}, piece.size() / 2, piece.size() - 1}) {
        KVIST_HOLDS(piece[at] == static_cast<uint8_t>(model.fill), "another block's bytes");
      }
    }
    KVIST_HOLDS(sum == model.size_bytes, sum, " bytes in the pieces");
  }

  void CheckFigures() {
    uint64_t used = 0, pinned = 0, reserved = 0;
    for (const ModelRef& block : Alive()) {
      used += block->charge();
      if (block->held()) pinned += block->charge();
    }
    for (const auto& [number, open] : writing_) reserved += Allocator::RoundUp(open.size_bytes);
    const StoreStats stats = *tier_->Stats();
    const auto check = [](const char* name, uint64_t said, uint64_t truth) {
      KVIST_HOLDS(said == truth, name, " is ", said, ", in truth ", truth);
    };
    check("used_bytes", stats.used_bytes, used);
    check("pinned_bytes", stats.pinned_bytes, pinned);
    check("reserved_bytes", stats.reserved_bytes, reserved);
    check("blocks", stats.blocks, stored_.size());
    check("leases", stats.leases, leases_.size());
    check("evicted_bytes", stats.evicted_bytes, evicted_bytes_);
    check("erased_blocks", stats.erased_blocks, erased_);
    check("expired_leases", stats.expired_leases, expired_leases_);
    check("expired_blocks", stats.expired_blocks, expired_blocks_);
    check("refused_reservations", stats.refused_reservations, refused_);
    KVIST_HOLDS(used + reserved <= kCapacity, used, " + ", reserved);
  }

  // A scan lists every block once, and none else.
  void CheckBlocks() {
    std::set<uint64_t> seen;
    uint64_t cursor = 0;
    const size_t limit = 1 + stored_.size() / 3;
    int steps = 0;
    do {
      const auto scanned = tier_->Scan(cursor, limit);
      KVIST_HOLDS(scanned.ok() && scanned->blocks.size() <= limit, "scan");
      for (const ScannedBlock& block : scanned->blocks) {
        const auto same = [&](const auto& entry) { return KeyOf(entry.first) == block.key; };
        const auto stored = std::find_if(stored_.begin(), stored_.end(), same);
        KVIST_HOLDS(stored != stored_.end() && seen.insert(stored->first).second, "a scan lists what is not there");
        KVIST_HOLDS(block.size_bytes == stored->second->size_bytes && block.traits == stored->second->traits, "scan");
        KVIST_HOLDS(block.gets == stored->second->gets, block.gets, " gets, in truth ", stored->second->gets);
      }
      cursor = scanned->next;
      KVIST_HOLDS(++steps < 1000, "a scan without an end");
    } while (cursor != 0);
    KVIST_HOLDS(seen.size() == stored_.size(), seen.size(), " blocks scanned of ", stored_.size());
    if (steps > 1) scanned_gate.Pass();
  }

  // Everything comes back.
  void LetGo() {
    writing_.clear();
    while (!refs_.empty()) {
      CheckContent(*refs_.back().first, *refs_.back().second);
      --refs_.back().second->refs;
      refs_.pop_back();
    }
    now_ += kMaxLease;
    Expire();
    CheckFigures();
    const auto all = tier_->Reserve(KeyOf(kKeys), kCapacity);
    KVIST_HOLDS(all.ok(), all.status().ToString());
    KVIST_HOLDS((*all)->pieces().size() == 1, "the free space is not joined");
  }

  fuzz::Input* const input_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::unique_ptr<HostTier> tier_;

  std::map<uint64_t, ModelRef> stored_;
  std::vector<ModelRef> unnamed_;  // held, and no longer in the index
  std::list<ModelRef> order_;      // oldest first; blocks under a lease are not in it
  std::map<uint64_t, Gone> gone_;
  std::map<uint64_t, std::pair<absl::Time, std::vector<ModelRef>>> leases_;
  std::map<uint64_t, Writing> writing_;
  std::vector<std::pair<BlockRef, ModelRef>> refs_;
  uint64_t serial_ = 0, evicted_bytes_ = 0, erased_ = 0, expired_leases_ = 0, expired_blocks_ = 0, refused_ = 0;
};

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::fuzz::Input input(data, size);
  kvist::Script(&input).Run();
  return 0;
}
