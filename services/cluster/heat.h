// Which segments are read far above the others: bytes read by segment, with decay, in a table of fixed size.
//
// A segment is hot when it is read at `floor` or more bytes a second and at `factor` times the mean of the node's
// segments, of which a node counts as having at least `few`: one that is asked for a single prompt has no others to
// compare with. With copies elsewhere, only part of a segment's reads come here, so what is measured counts once for
// each place: else its own copies would cool a segment. It stays hot down to half of what made it hot.
//
// The table keeps the most read: a newcomer takes the place of the least read of a sample and starts at its count
// (space-saving), so a count is too high by at most what was displaced, never too low.
//
// Threads any.
#ifndef KVIST_SERVICES_CLUSTER_HEAT_H_
#define KVIST_SERVICES_CLUSTER_HEAT_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "cachestore/key.h"

namespace kvist {

struct HeatOptions {
  size_t segments = 4096;  // in the table
  double factor = 8;
  size_t few = 128;
  double floor = 4 << 20;  // bytes a second
  absl::Duration half_life = absl::Seconds(2);
};

class Heat {
 public:
  explicit Heat(HeatOptions options) : options_(options) {}

  void Read(const Key& segment, uint64_t bytes);

  struct Hot {
    Key segment;
    double bytes_per_second = 0;  // here and, by estimate, at the copies
    double times = 1;             // of what makes it hot; from a half on if it was hot at the last tick
  };
  // Brings the figures up to `now` and gives the hot segments, hottest first. `copies` says how many nodes beside this
  // one serve a segment now; one that is not in it has none.
  std::vector<Hot> Tick(absl::Time now, const std::map<Key, size_t>& copies);

  // What readers take here, as of the last tick.
  struct Reading {
    size_t segments = 0;            // in the table
    double bytes_per_second = 0;    // of them all
    double hot = 0, most_read = 0;  // the parts of that of the hot segments and of the one that is most read
    std::vector<Hot> top;           // the most read first; rates without those of copies elsewhere
  };
  Reading Look(size_t top) const;

 private:
  struct Entry {
    Key segment;
    double bytes = 0;  // each counts half after every half-life
  };
  double Seconds() const;  // that a rate has when its bytes are as they are
  size_t LeastOfSome() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(size_t place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HeatOptions options_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Key, size_t> places_ ABSL_GUARDED_BY(mutex_);  // in entries_
  absl::flat_hash_set<Key> hot_ ABSL_GUARDED_BY(mutex_);             // at the last tick
  absl::Time last_tick_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  uint64_t sample_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_HEAT_H_
