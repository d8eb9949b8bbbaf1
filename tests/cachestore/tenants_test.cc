// Goal: in one tier tenants do not see, end, pin out or push out each other: keys, leases, quotas, shares.
// Method: examples with small tiers on a clock set by hand; then threads that write against one quota.
#include "cachestore/tenants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cachestore/host_tier.h"
#include "cachestore/tier_core.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kCapacity = 1 << 20;
constexpr size_t kBlock = 64 << 10;  // sixteen fill the tier

Key KeyOf(TenantId tenant, uint64_t number) {
  std::mt19937_64 random(number);
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  key.tenant = tenant;
  return key;
}

class TenantsTest : public ::testing::Test {
 protected:
  void Make(uint64_t max_blocks = 0) {
    HostTierOptions options;
    options.capacity_bytes = kCapacity;
    options.clock = [this] { return now_; };
    options.tenants = quotas_;
    options.max_blocks = max_blocks;
    tier_ = *HostTier::Create(options);
  }
  absl::Status Put(const Key& key, size_t size_bytes = kBlock) {
    auto reservation = tier_->Reserve(key, size_bytes);
    return reservation.ok() ? (*reservation)->Commit(size_bytes) : reservation.status();
  }
  bool Has(const Key& key) { return tier_->Get(key, /*touch=*/false)->block != nullptr; }
  // How many of a tenant's blocks [0, count) are there.
  int Kept(TenantId tenant, int count) {
    int kept = 0;
    for (int i = 0; i < count; ++i) kept += Has(KeyOf(tenant, i));
    return kept;
  }
  uint64_t Held(TenantId tenant) { return tier_->core()->Held(tenant).bytes; }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::shared_ptr<TenantQuotas> quotas_ = std::make_shared<TenantQuotas>(4);
  std::unique_ptr<HostTier> tier_;
};

TEST_F(TenantsTest, TheSameBytesUnderTwoTenantsAreTwoKeys) {
  Make();
  ASSERT_TRUE(Put(KeyOf(1, 7)).ok());
  EXPECT_TRUE(Has(KeyOf(1, 7)));
  EXPECT_FALSE(Has(KeyOf(2, 7)));
  EXPECT_EQ(tier_->Get(KeyOf(2, 7))->miss, MissReason::kNeverStored);
  EXPECT_FALSE(*tier_->Erase(KeyOf(2, 7)));
  EXPECT_TRUE(Put(KeyOf(2, 7)).ok()) << "what another stored is not in the way";
  EXPECT_TRUE(*tier_->Erase(KeyOf(1, 7)));
  EXPECT_TRUE(Has(KeyOf(2, 7)));
  EXPECT_EQ(tier_->Get(KeyOf(1, 7))->miss, MissReason::kErased);
}

TEST_F(TenantsTest, ATenantAtItsQuotaLosesItsOwnOldest) {
  quotas_->Set(1, 3 * kBlock, 1);
  Make();
  ASSERT_TRUE(Put(KeyOf(2, 0)).ok());  // older than all that follow
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Put(KeyOf(1, i)).ok());
  EXPECT_EQ(Held(1), 3 * kBlock);
  EXPECT_FALSE(Has(KeyOf(1, 1)));
  EXPECT_TRUE(Has(KeyOf(1, 2)));
  EXPECT_TRUE(Has(KeyOf(2, 0)));
  const absl::Status larger = Put(KeyOf(1, 9), 4 * kBlock);
  EXPECT_EQ(larger.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(larger.message()), HasSubstr("of the tenant's quota of 196608 bytes"));
}

TEST_F(TenantsTest, AFullTierTakesFromWhoHoldsTheMost) {
  Make();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Put(KeyOf(1, i)).ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Put(KeyOf(2, i)).ok());
  EXPECT_EQ(Kept(1, 4), 4) << "it held less than its half, and was never touched since";
  EXPECT_EQ(Held(2), 12 * kBlock);
  for (int i = 4; i < 100; ++i) ASSERT_TRUE(Put(KeyOf(1, i)).ok());
  EXPECT_EQ(Held(1), 8 * kBlock) << "who comes later takes its half, and no more";
  EXPECT_EQ(Held(2), 8 * kBlock);
}

TEST_F(TenantsTest, SharesAreWhatTheTierIsDividedBy) {
  quotas_->Set(1, TenantQuotas::kNoBound, 3);
  Make();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(Put(KeyOf(1, i)).ok());
    ASSERT_TRUE(Put(KeyOf(2, i)).ok());
  }
  EXPECT_EQ(Held(1), 12 * kBlock);
  EXPECT_EQ(Held(2), 4 * kBlock);
  quotas_->Set(2, TenantQuotas::kNoBound, 0);  // taken out of the access file
  for (int i = 100; i < 104; ++i) ASSERT_TRUE(Put(KeyOf(1, i)).ok());
  EXPECT_EQ(Held(2), 0);
  EXPECT_EQ(Held(1), 16 * kBlock) << "none of its own went while there was another's";
}

TEST_F(TenantsTest, ManySmallBlocksPushOutNobodyElses) {
  Make(/*max_blocks=*/64);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Put(KeyOf(1, i)).ok());
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(Put(KeyOf(2, i), 64).ok());
  EXPECT_EQ(Kept(1, 4), 4);
}

TEST_F(TenantsTest, ALeaseOfAnotherTenantIsUnknown) {
  Make();
  ASSERT_TRUE(Put(KeyOf(1, 1)).ok());
  const LeaseId lease = tier_->Match({KeyOf(1, 1)}, absl::Seconds(5))->lease;
  ASSERT_NE(lease.value, 0);
  EXPECT_TRUE(tier_->Release({lease.value, 2}).ok());
  EXPECT_EQ(tier_->Stats()->leases, 1u);
  EXPECT_TRUE(tier_->Release({lease.value, 1}).ok());
  EXPECT_EQ(tier_->Stats()->leases, 0u);
}

TEST_F(TenantsTest, LeasesOfATenantHoldAPartOfItsQuotaAtMost) {
  quotas_->Set(1, 4 * kBlock, 1);
  Make();
  std::vector<Key> chain;
  for (int i = 0; i < 4; ++i) {
    chain.push_back(KeyOf(1, i));
    ASSERT_TRUE(Put(chain.back()).ok());
  }
  EXPECT_EQ(tier_->Match(chain, absl::Seconds(5))->lease.value, 0) << "half of the quota is the most";
  chain.resize(2);
  EXPECT_NE(tier_->Match(chain, absl::Seconds(5))->lease.value, 0);
  EXPECT_TRUE(Put(KeyOf(1, 9)).ok()) << "so a writer of the tenant always finds room";
}

TEST_F(TenantsTest, ATenantBeyondThoseOfTheStoreIsRefused) {
  Make();
  EXPECT_EQ(Put(KeyOf(4, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Has(KeyOf(4, 1)));
}

TEST_F(TenantsTest, WritersOfOneTenantTogetherNeverPassItsQuota) {
  quotas_->Set(1, 5 * kBlock, 1);
  Make();
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> most = 0;
  std::thread watch([&] {
    while (!stop) most = std::max<uint64_t>(most, kCapacity - tier_->core()->space->allocator().state().free_bytes);
  });
  std::vector<std::thread> writers;
  for (int thread = 0; thread < 4; ++thread) {
    writers.emplace_back([&, thread] {
      for (int i = 0; i < 500; ++i) Put(KeyOf(1, thread * 1000 + i)).IgnoreError();
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  watch.join();
  EXPECT_LE(most, 5 * kBlock);
  EXPECT_GT(Held(1), 0);
  EXPECT_EQ(Held(1), tier_->Stats()->used_bytes) << "the account is that of the store";
}

}  // namespace
}  // namespace kvist
