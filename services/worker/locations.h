// Which segments were found elsewhere than at their owner, for some seconds: what Match learned and Get can use.
// Internal to services/worker.
//
// Threads any. Bounded: the oldest entry goes when there are too many. While nothing is unusual it is empty and costs
// one atomic load.
#ifndef KVIST_SERVICES_WORKER_LOCATIONS_H_
#define KVIST_SERVICES_WORKER_LOCATIONS_H_

#include <atomic>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cachestore/key.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct Location {
  std::string found;             // node that had the most of the segment's blocks; "" = the owner
  std::vector<std::string> hot;  // nodes with extra copies, as the owner said
  friend bool operator==(const Location&, const Location&) = default;
};

class Locations {
 public:
  static constexpr size_t kMaxEntries = 8192;

  explicit Locations(Runtime* runtime) : runtime_(runtime) {}

  bool empty() const { return size_ == 0; }
  std::optional<Location> Find(const Key& segment_head);
  void Record(const Key& segment_head, Location location);
  void Forget(const Key& segment_head);

  // True if the segment's owner has not been asked to adopt it lately; from now on it has.
  bool TakeAdoption(const Key& segment_head);

 private:
  struct Entry {
    Location location;
    absl::Time expires, adopted = absl::InfinitePast();
    std::list<Key>::iterator place;  // in order_
  };
  using Entries = absl::flat_hash_map<Key, Entry>;
  Entry& At(const Key& segment_head, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Remove(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Runtime* const runtime_;
  std::atomic<size_t> size_ = 0;
  std::mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  std::list<Key> order_ ABSL_GUARDED_BY(mutex_);  // the keys of entries_, in the order of their coming
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_LOCATIONS_H_
