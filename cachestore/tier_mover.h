// Moves blocks between the host and the device tier, on one thread of its own: up (promote) when readers of device memory
// ask for a block again, down (demote) before the device must evict what the host does not have.
//
// Both are copies: where a block came from it stays, until that tier evicts it. So a reader finds a block all the while,
// and a move that fails costs nothing but the move.
//
// Units   bytes.
// Threads every method from any thread. None waits for a move; each takes one mutex for a moment.
// Bounds  a queue of `max_queued` keys; bytes a second each way, with a burst; a share of the device for one block; and
//         one buffer of the staging at a time. What is beyond them is not moved, and counted.
//
// A move never brings back a block that was erased or has expired meanwhile. A move is registered before its source is
// pinned and publishes under the mutex, unless it was called off. An Erase therefore erases in both tiers, calls off
// (Forget), and erases again: whatever was published before the Forget is met by the second, whatever would be later is
// called off, and a move that begins after it finds no source.
#ifndef KVIST_CACHESTORE_TIER_MOVER_H_
#define KVIST_CACHESTORE_TIER_MOVER_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cachestore/device_tier.h"
#include "cachestore/host_tier.h"
#include "cachestore/promotion.h"

namespace kvist {

struct MoveRules {
  absl::Duration hit_window = absl::Minutes(1);            // for the second hit
  size_t remembered_hits = 65536;                          // first hits, 16 bytes each
  size_t max_queued = 256;                                 // promotions
  uint64_t promoted_bytes_per_second = uint64_t{4} << 30;  // PCIe 4 x16 has about 25
  uint64_t demoted_bytes_per_second = uint64_t{2} << 30;
  uint64_t burst_bytes = uint64_t{64} << 20;
  double max_block_fraction = 0.125;   // of the device tier, for one block
  double kept_free_fraction = 0.0625;  // of it, room that demotion goes ahead for
};

class TierMover {
 public:
  // `on_outcome` is told how every copy went, and when a look at the idle device found it failed, on the mover's thread.
  // It may call Stop.
  TierMover(HostTier* host, DeviceTier* device, const MoveRules& rules,
            std::function<void(const absl::Status&)> on_outcome);
  void Start();  // once; nothing moves before
  void End();    // for good; waits for the move that is under way, at most a copy's deadline
  ~TierMover() { End(); }

  // A reader of device memory was served from the host.
  void NoteHit(const Key& key, uint64_t size_bytes);
  // Room was taken on the device otherwise than by a promotion: see whether there is enough ahead.
  void NoteRoomTaken();
  // Calls off the move of this key, if there is one. See above.
  void Forget(const Key& key);
  void Stop();  // no further move; for a device that is lost

  // How many blocks have come down since the start; each carries its number (Block::Place::moved).
  uint32_t demotions() const { return demotions_.load(std::memory_order_acquire); }
  bool idle() const;  // nothing queued, nothing under way

  struct Figures {
    uint64_t promoted_blocks = 0, promoted_bytes = 0, demoted_blocks = 0, demoted_bytes = 0;
    uint64_t refused_promotions = 0;  // the queue is full, the block too large, or no room on the device
    uint64_t refused_demotions = 0;   // no bandwidth or no room in the host tier
    uint64_t dropped_moves = 0;       // erased, expired, stopped, or the device failed
  };
  Figures figures() const;

 private:
  struct Move {
    Key key;
    bool called_off = false;
  };
  class Registered;

  void Run();
  void Promote(const Key& key);
  // Moves down what is next in turn for eviction and not in the host tier, until `bytes` could be had without loss.
  void DemoteAhead(uint64_t bytes);
  bool Demote(const Key& key);
  absl::Status CopyUp(const Block& from, DeviceReservation& to);
  absl::Status CopyDown(const std::shared_ptr<Block>& from, Block& to);
  bool HostHas(const Key& key);
  uint64_t SliceBytes() const;
  // Publishes `publish` unless the move was called off or the block's time is over. What is published takes
  // the time that the source has by now.
  bool Publish(const Move& move, const Block& source, TierCore& target, const std::function<absl::Status()>& publish);

  const std::shared_ptr<TierCore> host_;
  DeviceTier* const device_;
  const MoveRules rules_;
  const std::function<void(const absl::Status&)> on_outcome_;
  const uint64_t max_block_bytes_, kept_free_bytes_;

  HitWindow hits_;
  TokenBucket up_, down_;  // of the mover's thread
  std::atomic<uint32_t> demotions_{0};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Key> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<Move*> moving_ ABSL_GUARDED_BY(mutex_);  // one, or a promotion and the demotion that makes it room
  bool room_taken_ ABSL_GUARDED_BY(mutex_) = false;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  Figures figures_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_TIER_MOVER_H_
