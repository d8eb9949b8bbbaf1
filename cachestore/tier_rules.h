// What is set for every tier that keeps its blocks in one span of memory.
//
// Units   bytes in names that end in _bytes.
// Errors  none here: ListWrongRules says what is wrong, and whoever creates the tier refuses.
#ifndef KVIST_CACHESTORE_TIER_RULES_H_
#define KVIST_CACHESTORE_TIER_RULES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cachestore/tenants.h"

namespace kvist {

using Clock = std::function<absl::Time()>;  // any thread; the same alias as in services/runtime/runtime.h

struct TierRules {
  Clock clock;                                   // for leases and expiry
  absl::Duration max_lease = absl::Seconds(60);  // longest that is granted
  double max_pinned_fraction = 0.5;              // of the capacity, by leases, in [0, 1]
  size_t index_shards = 64;                      // a power of two, at most kMaxShards
  uint64_t max_blocks = 0;                       // 0: one per 4 KiB of capacity, and 1,024
  size_t remembered_removals = 65536;            // keys whose end is known; at most kMaxRememberedRemovals
  std::shared_ptr<const TenantQuotas> tenants;   // null: there is but one, without a bound

  static constexpr uint64_t kMinCapacityBytes = uint64_t{64} << 10;
  static constexpr size_t kMaxShards = 4096;
  static constexpr size_t kMaxRememberedRemovals = size_t{16} << 20;
  static constexpr size_t kMostDropped = 4096;  // blocks whose time is over, dropped by one call, about
};

inline size_t TenantsOf(const TierRules& rules) { return rules.tenants == nullptr ? 1 : rules.tenants->tenants(); }

// Adds a sentence for every rule that is wrong.
void ListWrongRules(const TierRules& rules, std::vector<std::string>& wrong);

}  // namespace kvist

#endif  // KVIST_CACHESTORE_TIER_RULES_H_
