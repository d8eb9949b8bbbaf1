// Which segments are read far above the others: bytes read by segment, with decay, in a table of fixed size.
//
// A segment is hot when it is read at `floor` or more bytes a second and at `factor` times the mean of all segments in
// the table, or at `always` whatever the others are (a node that is asked for one thing only has no others). The table
// keeps the most read: a newcomer takes the place of the least read and starts at its count (space-saving).
//
// Threads any.
#ifndef KVIST_SERVICES_CLUSTER_HEAT_H_
#define KVIST_SERVICES_CLUSTER_HEAT_H_

#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cachestore/key.h"

namespace kvist {

struct HeatOptions {
  size_t segments = 4096;
  double factor = 8;
  double floor = 4 << 20, always = 64 << 20;  // bytes a second
  absl::Duration half_life = absl::Seconds(2);
};

class Heat {
 public:
  explicit Heat(HeatOptions options) : options_(options) {}

  void Read(const Key& segment, uint64_t bytes);

  struct Hot {
    Key segment;
    double bytes_per_second = 0;
    double times = 1;  // above what makes it hot
  };
  // Brings the figures up to `now` and gives the hot segments, hottest first.
  std::vector<Hot> Tick(absl::Time now);

 private:
  const HeatOptions options_;
  std::mutex mutex_;
  absl::flat_hash_map<Key, double> read_ ABSL_GUARDED_BY(mutex_);  // bytes, each counting half after every half-life
  absl::Time last_tick_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_HEAT_H_
