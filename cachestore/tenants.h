// Whose a block is, and what each tenant may hold of one tier. A tenant's keys are its own: the same 32 bytes under
// another tenant are another key (key.h), so nobody finds, ends or erases what is another's.
//
// Shape   tenants are numbers from 0; 0 is whoever comes where no tenants are configured. A tier made for `tenants` of
//         them takes no block of another.
// Rules   A tenant never holds more than `max_bytes`: its next block takes the room of its own oldest. When the tier is
//         full, the block goes of whoever holds the most for its `share`, the newcomer's block counted: who holds less
//         than its part loses nothing to who holds more. Share 0 goes first.
// Units   bytes of charges, written blocks and those that only readers hold included.
// Threads any.
#ifndef KVIST_CACHESTORE_TENANTS_H_
#define KVIST_CACHESTORE_TENANTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace kvist {

using TenantId = uint16_t;

// What a tenant has in one tier.
struct TenantHolding {
  uint64_t bytes = 0;   // charges
  uint64_t blocks = 0;  // written ones included, and those that only readers hold
};

class TenantQuotas {
 public:
  static constexpr size_t kMostTenants = 256;
  static constexpr uint64_t kNoBound = UINT64_MAX;

  // All begin with no bound and share 1. REQUIRES: 1 <= tenants <= kMostTenants.
  explicit TenantQuotas(size_t tenants) : tenants_(tenants), quotas_(new Quota[tenants]) {}

  size_t tenants() const { return tenants_; }
  // REQUIRES: tenant < tenants(), of each.
  void Set(TenantId tenant, uint64_t max_bytes, uint32_t share) {
    quotas_[tenant].max_bytes.store(max_bytes, std::memory_order_relaxed);
    quotas_[tenant].share.store(share, std::memory_order_relaxed);
  }
  uint64_t max_bytes(TenantId tenant) const { return quotas_[tenant].max_bytes.load(std::memory_order_relaxed); }
  uint32_t share(TenantId tenant) const { return quotas_[tenant].share.load(std::memory_order_relaxed); }

 private:
  struct Quota {
    std::atomic<uint64_t> max_bytes{kNoBound};
    std::atomic<uint32_t> share{1};
  };
  const size_t tenants_;
  const std::unique_ptr<Quota[]> quotas_;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_TENANTS_H_
