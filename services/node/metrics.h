// The node's Prometheus metrics: one registry, one exposition. Names are kvist_*, base units, counters end in _total.
//
// Labels are bounded: tier, method, code, reason, op, cause, codec, limit, found_by, state, direction, result,
// kv_namespace, and tenant, which comes from the access file. All label sets exist from the start, at 0, but those of
// namespaces (namespace_figures.h). Threads any; counting takes no lock, but for namespaces.
#ifndef KVIST_SERVICES_NODE_METRICS_H_
#define KVIST_SERVICES_NODE_METRICS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "cachestore/life_figures.h"
#include "services/node/admission.h"
#include "services/node/lookup_metrics.h"
#include "services/node/namespace_figures.h"
#include "services/node/tenant_metrics.h"

namespace prometheus {
class Counter;
class Histogram;
class Registry;
struct MetricFamily;
}  // namespace prometheus

namespace kvist {

enum class Method : uint8_t {
  kMatch,
  kGet,
  kPut,
  kErase,
  kRelease,
  kServerInfo,
  kExplain,
  kDescribe,
  kReport,
  kGetView,
  kAdopt,
  kDrain,
  kPutProfile,
  kGetProfile
};
inline constexpr int kMethods = 14;
std::string_view MethodName(Method method);  // "match", ...

// How a damaged block came to light.
enum class FoundBy : uint8_t { kScrub, kReport, kCopy, kRead };

// Why the node ended a stream.
enum class StreamEnd : uint8_t { kSlowReader, kSlowWriter, kDeadline };

// What one tier says of itself.
struct TierReading {
  StoreStats stats;
  LifeFigures life;
};

class Metrics {
 public:
  Metrics(const std::string& node_id, const std::string& version);
  ~Metrics();

  // A tier whose figures are read at each exposition. Call it before the first Expose; `read` must be callable as long
  // as Expose is.
  void AddTier(const std::string& tier, std::function<TierReading()> read);

  void CountRpc(Method method, absl::StatusCode code, absl::Duration took);
  LookupMetrics& lookups() { return lookups_; }
  TenantMetrics& tenants() { return tenants_; }
  NamespaceFigures& namespaces() { return namespaces_; }
  void CountSent(uint64_t bytes);
  void CountReceived(uint64_t bytes);
  // A block refused at Commit: cause is "checksum", "identity" or "format".
  void CountRefusedBlock(std::string_view cause);
  void CountOverload(Bound limit);  // a request refused for a limit
  void CountEndedStream(StreamEnd cause);
  void CountScrubbed();
  void CountDamaged(FoundBy found_by);
  void CountConflict();

  // A figure of another part of the node, read when somebody looks. Call it before the first Expose; `read` must be
  // callable as long as Expose is.
  enum class Kind : uint8_t { kCounter, kGauge };
  void AddFigure(Kind kind, std::string name, std::string help, std::map<std::string, std::string> labels,
                 std::function<double()> read);

  // Who the tenants are, asked at each exposition. Call it before the first Expose.
  void SetTenants(std::function<std::vector<TenantReading>()> read) { read_tenants_ = std::move(read); }

  // Prometheus text format 0.0.4 of everything.
  std::string Expose() const;

 private:
  struct TierSource {
    std::string tier;
    std::function<TierReading()> read;
  };
  struct Figure {
    Kind kind;
    std::string name, help;
    std::map<std::string, std::string> labels;
    std::function<double()> read;
  };

  void AppendTiers(std::vector<prometheus::MetricFamily>* families) const;
  void RegisterRpcs();
  void RegisterBlocks();

  std::unique_ptr<prometheus::Registry> registry_;
  LookupMetrics lookups_;
  NamespaceFigures namespaces_;
  // Constant after construction; the registry owns what they point to.
  std::array<prometheus::Histogram*, kMethods> rpc_seconds_;
  std::array<std::array<prometheus::Counter*, 17>, kMethods> rpcs_;
  prometheus::Counter *sent_bytes_, *received_bytes_;
  std::map<std::string, prometheus::Counter*, std::less<>> refused_blocks_;
  std::array<prometheus::Counter*, kBounds> overloads_;
  std::array<prometheus::Counter*, 3> ended_streams_;
  std::array<prometheus::Counter*, 4> damaged_;
  prometheus::Counter *scrubbed_, *conflicts_;
  TenantMetrics tenants_;
  std::function<std::vector<TenantReading>()> read_tenants_;  // empty: there are none
  std::vector<TierSource> tiers_;
  std::vector<Figure> figures_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_METRICS_H_
