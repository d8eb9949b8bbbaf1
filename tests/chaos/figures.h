// What an oracle worker counts, and its JSON.
//
// Units   blocks; seconds in names that end in _s, microseconds in those that end in _us.
// Threads every method may be called from any thread.
#ifndef KVIST_TESTS_CHAOS_FIGURES_H_
#define KVIST_TESTS_CHAOS_FIGURES_H_

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/worker/client.h"

namespace kvist::testing {

enum class Call { kMatch, kGet, kPut };

// How long calls took: eight buckets to a doubling, so a percentile is at most 9 % too high.
class Latencies {
 public:
  void Add(absl::Duration took);
  double PercentileUs(double part) const;  // part of 0 to 1; 0 if there is nothing
  double longest_s() const { return longest_s_; }

 private:
  std::array<uint64_t, 320> buckets_{};
  uint64_t count_ = 0;
  double longest_s_ = 0;
};

// One read of a chain: what was asked, what came.
struct Read {
  size_t asked = 0, delivered = 0, wrong = 0;
  std::string miss;                 // why the block after the delivered ones did not come
  std::string miss_why;             // a sentence of the client's
  std::vector<std::string> owners;  // of the delivered blocks and of the one after them, by the first view
  uint64_t bytes = 0;
};

class Figures {
 public:
  explicit Figures(absl::Duration deadline) : deadline_(deadline) {}

  void Took(Call call, absl::Duration took);
  void Count(const Read& read);
  void CountPut(const PutResult& put);
  void Fault(const absl::Status& status);
  void Wrong(const std::string& example);
  void Arrival(bool dropped);

  uint64_t verified() const;
  uint64_t wrong() const;
  // `counters` are the sum over all clients.
  nlohmann::ordered_json ToJson(double seconds, bool final, const ClientCounters& counters) const;

 private:
  const absl::Duration deadline_;
  mutable std::mutex mutex_;
  uint64_t reads_ ABSL_GUARDED_BY(mutex_) = 0, hits_ ABSL_GUARDED_BY(mutex_) = 0, wrong_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0, stored_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t put_failures_ ABSL_GUARDED_BY(mutex_) = 0, faults_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t arrivals_ ABSL_GUARDED_BY(mutex_) = 0, dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t late_ ABSL_GUARDED_BY(mutex_) = 0;  // calls that took their whole deadline
  std::map<std::string, uint64_t> misses_ ABSL_GUARDED_BY(mutex_), reads_by_owner_ ABSL_GUARDED_BY(mutex_),
      misses_by_owner_ ABSL_GUARDED_BY(mutex_);
  std::array<Latencies, 3> latencies_ ABSL_GUARDED_BY(mutex_);           // by Call
  std::map<std::string, std::string> examples_ ABSL_GUARDED_BY(mutex_);  // the last by kind of trouble
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_CHAOS_FIGURES_H_
