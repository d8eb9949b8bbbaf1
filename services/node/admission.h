// Bounds on what is under way in a node. Beyond one, a request is refused before any work, with a hint when to come
// again: overload then costs refused requests, and never memory or the requests that were taken.
//
// The hint is the time that the node would need for everybody whom it refused within the last second, at the rate at
// which it finished requests of the kind in that second: a crowd that obeys comes back spread over that time.
//
// Bounds  of bytes let a request alone through, whatever its size: a limit must not make a block unreadable.
// Threads any.
// Life    a Pass may outlive the Admission (a part that the wire still holds does).
#ifndef KVIST_SERVICES_NODE_ADMISSION_H_
#define KVIST_SERVICES_NODE_ADMISSION_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/tenants.h"
#include "services/node/limits.h"
#include "services/runtime/runtime.h"

namespace kvist {

// What a refusal is counted under.
enum class Bound : uint8_t {
  kGets,
  kQueuedBytes,
  kPinnedBytes,
  kPuts,
  kReservedBytes,
  kMatches,
  kReports,
  kExplains,
  kStoreFull,
  kTenantRequests
};
inline constexpr int kBounds = 10;
std::string_view BoundName(Bound bound);  // "gets", "queued_bytes", ...

// Events of the last second, of the virtual or the real clock.
class RecentRate {
 public:
  void Add(uint64_t events, absl::Time now);
  double PerSecond(absl::Time now);

 private:
  void Advance(absl::Time now);
  absl::Time begin_ = absl::InfinitePast();  // of the current second
  uint64_t current_ = 0, previous_ = 0;
};

// Gives back what it stands for when it goes.
class Pass {
 public:
  Pass() = default;
  explicit Pass(std::function<void()> give_back) : give_back_(std::move(give_back)) {}
  Pass(Pass&& other) noexcept : give_back_(std::exchange(other.give_back_, nullptr)) {}
  Pass& operator=(Pass&& other) noexcept {
    if (this != &other) {
      Return();
      give_back_ = std::exchange(other.give_back_, nullptr);
    }
    return *this;
  }
  ~Pass() { Return(); }
  void Return() {
    if (auto give_back = std::exchange(give_back_, nullptr)) give_back();
  }

 private:
  std::function<void()> give_back_;
};

// Blocks that are pinned, each by its address; one counts once, however often it is pinned.
class PinnedBlocks {
 public:
  bool Has(const void* block) const { return counts_.contains(block); }
  uint64_t bytes() const { return bytes_; }
  void Add(const void* block, uint64_t bytes) {
    if (++counts_[block] == 1) bytes_ += bytes;
  }
  void Remove(const void* block, uint64_t bytes) {
    const auto found = counts_.find(block);
    if (--found->second > 0) return;
    counts_.erase(found);
    bytes_ -= bytes;
  }

 private:
  absl::flat_hash_map<const void*, uint32_t> counts_;
  uint64_t bytes_ = 0;
};

class Admission {
 public:
  // `refused` is called at each refusal, with the tenant if it is for a limit of its own; empty = nobody wants to know. `tenant_requests` says how many requests a tenant
  // may have under way, 0 = no bound; empty = nobody has one.
  Admission(const AdmissionLimits& limits, uint64_t capacity_bytes, Runtime* runtime,
            std::function<void(Bound, TenantId)> refused, std::function<uint32_t(TenantId)> tenant_requests = nullptr);

  // One Get stream of so many keys. Its bytes to send are guessed by the mean of the blocks sent before, until the
  // stream says better with SetQueued.
  absl::StatusOr<Pass> EnterGet(TenantId tenant, size_t keys, uint64_t* queued_bytes);
  // Changes what a Get has to send from `*queued_bytes` to `now_bytes`; a Get that ends sets 0.
  void SetQueued(uint64_t* queued_bytes, uint64_t now_bytes);
  // An item of a Get was looked up: it sends so many bytes (0 for a miss).
  void CountItem(uint64_t bytes);
  // A Get pins the block at this address. `own` are the pins of this Get, which it begins empty and only passes here:
  // a block that the wire still holds for it does not stand in the way of its next.
  absl::StatusOr<Pass> Pin(const void* block, uint64_t bytes, const std::shared_ptr<PinnedBlocks>& own);

  absl::StatusOr<Pass> EnterPut(TenantId tenant);
  absl::StatusOr<Pass> Reserve(uint64_t bytes);
  // What a Put is told that the store has no room for: all that is there is pinned or reserved. `why` is the store's.
  absl::Status RefuseFull(const absl::Status& why);
  absl::StatusOr<Pass> EnterMatch(TenantId tenant);
  absl::StatusOr<Pass> EnterExplain(TenantId tenant);  // or a Describe
  // A report makes the node read so many bytes; refused if those of the last second are enough.
  absl::Status EnterReport(uint64_t bytes);

  uint32_t gets() const;
  uint32_t requests(TenantId tenant) const;  // under way
  uint64_t queued_bytes() const;
  uint64_t pinned_bytes() const;
  uint64_t reserved_bytes() const;

 private:
  struct State;
  absl::StatusOr<Pass> Enter(TenantId tenant, Bound bound, uint32_t limit, std::string_view what);
  Pass PassOf(TenantId tenant, Bound bound);

  const AdmissionLimits limits_;
  const uint64_t max_pinned_bytes_, max_reserved_bytes_;
  const std::shared_ptr<State> state_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_ADMISSION_H_
