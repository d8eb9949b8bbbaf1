// A node's handlers over a small store, on a clock that the target turns: what the fuzz targets of the node share.
//
// Threads one.
#ifndef KVIST_TESTS_FUZZ_NODE_UNDER_TEST_H_
#define KVIST_TESTS_FUZZ_NODE_UNDER_TEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cachestore/host_tier.h"
#include "services/cluster/view.h"
#include "services/node/cache_handlers.h"
#include "services/runtime/runtime.h"

namespace kvist::fuzz {

// Time stands still unless it is turned. There are no threads.
class ManualRuntime final : public Runtime {
 public:
  absl::Time Now() override { return now_; }
  uint64_t Random() override { return ++random_; }
  std::unique_ptr<Thread> Start(std::function<void()> body) override;
  std::unique_ptr<Condition> NewCondition() override;
  void SleepUntil(absl::Time time) override { now_ = time; }
  void Turn(absl::Duration by) { now_ += by; }

 private:
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  uint64_t random_ = 0;
};

inline constexpr int kTestKeys = 6, kTestNamespaces = 2;
inline constexpr uint32_t kMaxTestKeys = 64;  // in a request

Key TestKey(int number);
std::string TestNamespace(int number);  // 16 bytes
// The valid block of this key and namespace, a few KiB; made once.
const std::string& TestBlock(int key, int ns);

class NodeUnderTest {
 public:
  NodeUnderTest();

  ManualRuntime runtime;
  uint64_t stored = 0, conflicts = 0, damaged = 0;  // calls of the hooks
  bool taking_blocks = true;
  std::unique_ptr<HostTier> tier;
  std::unique_ptr<CacheHandlers> handlers;

  absl::Time DeadlineIn(absl::Duration time) { return runtime.Now() + time; }
  void Store(int key, int ns);  // through a Put session; it must succeed
};

}  // namespace kvist::fuzz

#endif  // KVIST_TESTS_FUZZ_NODE_UNDER_TEST_H_
