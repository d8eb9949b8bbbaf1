// The node's Prometheus metrics: one registry, one exposition. Names are kvist_*, base units, counters end in _total.
//
// Labels are bounded: tier, method, code, reason, op, cause. All label sets exist from the start, at 0.
// Threads any; counting takes no lock.
#ifndef KVIST_SERVICES_NODE_METRICS_H_
#define KVIST_SERVICES_NODE_METRICS_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cache.pb.h"

namespace prometheus {
class Counter;
class Histogram;
class Registry;
}  // namespace prometheus

namespace kvist {

enum class Method : uint8_t { kMatch, kGet, kPut, kErase, kRelease, kServerInfo };
inline constexpr int kMethods = 6;
std::string_view MethodName(Method method);  // "match", ...

class Metrics {
 public:
  // `store` is asked for its Stats at each exposition; it must outlive this.
  Metrics(BlockStore* store, const std::string& node_id, const std::string& version);
  ~Metrics();

  void CountRpc(Method method, absl::StatusCode code, absl::Duration took);
  // Blocks found and not found by Match (op "match") or Get (op "get").
  void CountLookup(Method method, uint64_t hits, v1::MissReason miss, uint64_t misses);
  void CountSent(uint64_t bytes);
  void CountReceived(uint64_t bytes);
  // A block refused at Commit: cause is "checksum", "identity" or "format".
  void CountRefusedBlock(std::string_view cause);

  // Prometheus text format 0.0.4 of everything.
  std::string Expose() const;

 private:
  class StoreCollector;

  std::unique_ptr<prometheus::Registry> registry_;
  std::unique_ptr<StoreCollector> store_collector_;
  // Constant after construction; the registry owns what they point to.
  std::array<prometheus::Histogram*, kMethods> rpc_seconds_;
  std::array<std::array<prometheus::Counter*, 17>, kMethods> rpcs_;
  std::array<prometheus::Counter*, 2> hits_;
  std::array<std::array<prometheus::Counter*, v1::MissReason_ARRAYSIZE>, 2> misses_;
  prometheus::Counter *sent_bytes_, *received_bytes_;
  std::map<std::string, prometheus::Counter*, std::less<>> refused_blocks_;
};

// Counts one RPC when it goes out of scope.
class RpcTimer {
 public:
  RpcTimer(Metrics* metrics, Method method) : metrics_(metrics), method_(method), start_(absl::Now()) {}
  ~RpcTimer() { metrics_->CountRpc(method_, code_, absl::Now() - start_); }
  RpcTimer(const RpcTimer&) = delete;
  RpcTimer& operator=(const RpcTimer&) = delete;
  void SetCode(absl::StatusCode code) { code_ = code; }

 private:
  Metrics* const metrics_;
  const Method method_;
  const absl::Time start_;
  absl::StatusCode code_ = absl::StatusCode::kOk;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_METRICS_H_
