// A node's handlers over a host tier, without sockets and threads, on a clock that the test moves.
#ifndef KVIST_TESTS_SERVICES_NODE_LOCAL_NODE_H_
#define KVIST_TESTS_SERVICES_NODE_LOCAL_NODE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "cachestore/host_tier.h"
#include "cachestore/tier_core.h"
#include "services/node/cache_handlers.h"
#include "services/node/local_channel.h"
#include "tests/services/testing/loopback.h"
#include "tests/services/testing/manual_runtime.h"

namespace kvist::testing {

// The value of `name` or `name{labels}` in an exposition; -1 if it is not there.
inline double Figure(const std::string& exposition, const std::string& name) {
  const size_t at = exposition.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(exposition.substr(at + name.size() + 2));
}

struct LocalNode {
  static constexpr uint64_t kCapacity = 8 << 20;

  explicit LocalNode(const AdmissionLimits& admission = {}, Hooks hooks = {},
                     std::shared_ptr<const Access> access = nullptr) {
    HostTierOptions options;
    options.capacity_bytes = kCapacity;
    options.clock = runtime.clock();
    if (access != nullptr) options.tenants = access->host_quotas();
    tier = *HostTier::Create(options);
    metrics = std::make_unique<Metrics>("n0", "0");
    metrics->AddTier("host", [this] { return TierReading{*tier->Stats(), tier->core()->index.life()}; });
    CacheHandlersOptions given;
    given.store = tier.get();
    given.metrics = metrics.get();
    given.runtime = &runtime;
    given.identity = {"0", "n0"};
    given.capacity_bytes = kCapacity;
    given.admission = admission;
    given.view = [this] { return view; };
    given.access = std::move(access);
    given.held = [this](TenantId tenant) { return tier->core()->Held(tenant); };
    given.hooks = std::move(hooks);
    handlers = std::make_unique<CacheHandlers>(std::move(given));
    channel = NewLocalChannel(handlers.get(), &runtime);
  }

  absl::Time In(double seconds) { return runtime.Now() + absl::Seconds(seconds); }

  absl::Status Put(const v1::PutReserve& reserve, const std::string& block) {
    absl::StatusOr<std::unique_ptr<PutStream>> stream = channel->Put(reserve, In(10));
    if (!stream.ok()) return stream.status();
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(block.data()), block.size());
    if (absl::Status status = (*stream)->Write(0, bytes); !status.ok()) return status;
    return (*stream)->Commit(block.size()).status();
  }
  absl::Status Put(const Key& key, uint32_t layers = 2, const std::string& namespace_digest = kTestNamespace) {
    const std::string block = TestBlock(key, layers, 1, namespace_digest);
    return Put(ReserveFor(key, block.size(), namespace_digest), block);
  }

  double Figure(const std::string& name) const { return testing::Figure(metrics->Expose(), name); }
  StoreStats Stats() { return *tier->Stats(); }

  ManualRuntime runtime;
  std::shared_ptr<const View> view;
  std::unique_ptr<HostTier> tier;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<CacheHandlers> handlers;
  std::unique_ptr<Channel> channel;
};

inline std::string KeyBytes(const Key& key) {
  return std::string(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
}

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_NODE_LOCAL_NODE_H_
