// Blocks found, missed and stored by namespace, so that a model whose blocks are not found stands out.
//
// Labels   kv_namespace: the first twelve hex digits of the digest, of the first kNamed namespaces that a block was stored
//          for here; "other": all others. Only a stored block earns a name: whoever merely asks cannot use them up. A name
//          stays until the node restarts, so that counters never go back.
// Match    knows keys and no namespace, and is not in here; nor are misses of a Get that does not name one ("other").
// Threads  any. Counting takes a lock for a look-up among kNamed entries.
#ifndef KVIST_SERVICES_NODE_NAMESPACE_FIGURES_H_
#define KVIST_SERVICES_NODE_NAMESPACE_FIGURES_H_

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"

namespace prometheus {
template <typename T>
class Family;
class Counter;
class Registry;
}  // namespace prometheus

namespace kvist {

class NamespaceFigures {
 public:
  static constexpr size_t kNamed = 64;

  explicit NamespaceFigures(prometheus::Registry* registry);  // which outlives it

  // `digest` is of 16 bytes, or "" = not known. By Get.
  void CountHit(std::string_view digest);
  void CountMiss(std::string_view digest);
  // Copies of other nodes included.
  void CountStored(std::string_view digest);

 private:
  struct Counters {
    prometheus::Counter *hit, *missed, *stored;
  };
  Counters Add(const std::string& label);
  Counters Of(std::string_view digest);

  prometheus::Family<prometheus::Counter>*const hit_, *const missed_, *const stored_;  // the registry's
  const Counters other_;
  std::mutex mutex_;
  absl::flat_hash_map<std::string, Counters> named_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_NAMESPACE_FIGURES_H_
