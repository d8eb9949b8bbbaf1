// What each tenant asks for, finds, stores and is refused.
//
// Labels  tenants come from the access file, and from nowhere else; what was counted for one that was taken out is kept
//         until it comes back or the process ends, and not shown.
// Threads any; counting takes no lock.
#ifndef KVIST_SERVICES_NODE_TENANT_METRICS_H_
#define KVIST_SERVICES_NODE_TENANT_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cachestore/tenants.h"

namespace prometheus {
struct MetricFamily;
}  // namespace prometheus

namespace kvist {

// What one tenant holds and may hold at this moment. Bytes of a quota that is not set are TenantQuotas::kNoBound.
struct TenantReading {
  TenantId id = 0;
  std::string name;
  uint64_t host_bytes = 0, device_bytes = 0;
  uint64_t host_quota_bytes = TenantQuotas::kNoBound, device_quota_bytes = TenantQuotas::kNoBound;
  uint32_t share = 1;
  uint32_t requests = 0;  // under way
};

class TenantMetrics {
 public:
  void CountMatch(TenantId tenant, uint64_t hits, uint64_t misses) {
    Add(counts_[tenant].matched, hits);
    Add(counts_[tenant].unmatched, misses);
  }
  void CountGet(TenantId tenant, bool hit, uint64_t sent_bytes) {
    Add(hit ? counts_[tenant].hits : counts_[tenant].misses, 1);
    Add(counts_[tenant].sent_bytes, sent_bytes);
  }
  void CountStored(TenantId tenant, uint64_t bytes) {
    Add(counts_[tenant].stored, 1);
    Add(counts_[tenant].stored_bytes, bytes);
  }
  void CountRefusedRoom(TenantId tenant) { Add(counts_[tenant].refused_room, 1); }
  void CountRefusedRequest(TenantId tenant) { Add(counts_[tenant].refused_requests, 1); }

  // One family for each figure, a metric for each of `tenants`; none without tenants.
  void Append(const std::vector<TenantReading>& tenants, std::vector<prometheus::MetricFamily>* families) const;

 private:
  using Count = std::atomic<uint64_t>;
  // One cache line or two each: tenants do not slow each other.
  struct alignas(64) Counts {
    Count matched{0}, unmatched{0}, hits{0}, misses{0}, sent_bytes{0}, stored{0}, stored_bytes{0}, refused_room{0},
        refused_requests{0};
  };
  static void Add(Count& count, uint64_t amount) { count.fetch_add(amount, std::memory_order_relaxed); }

  std::array<Counts, TenantQuotas::kMostTenants> counts_{};
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_TENANT_METRICS_H_
