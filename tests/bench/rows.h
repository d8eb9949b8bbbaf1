// One row of the bench table: two sides measured in one run, in turns, and their ratio. tools/bench reads what this
// prints.
#ifndef KVIST_TESTS_BENCH_ROWS_H_
#define KVIST_TESTS_BENCH_ROWS_H_

#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvist {

inline double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

inline double Seconds(const std::function<void()>& act) {
  const absl::Time start = absl::Now();
  act();
  return absl::ToDoubleSeconds(absl::Now() - start);
}

enum class Reach { kAtLeast, kAtMost };
struct Target {
  double value;
  Reach reach;
};

inline void PrintRow(const std::string& name, double ours, double other, const std::string& unit,
                     std::optional<Target> target) {
  const double ratio = ours / other;
  const bool ok = target && (target->reach == Reach::kAtLeast ? ratio >= target->value : ratio <= target->value);
  std::printf(
      "{\"name\": \"%s\", \"ours\": %.6g, \"other\": %.6g, \"unit\": \"%s\", \"ratio\": %.6g, \"reach\": %s, \"ok\": "
      "%s}\n",
      name.c_str(), ours, other, unit.c_str(), ratio, target ? std::to_string(target->value).c_str() : "null",
      target ? (ok ? "true" : "false") : "null");
  std::fflush(stdout);
}

// Runs both sides in turns, `rounds` times after one uncounted round, and prints the medians of `bytes` per second.
inline void PrintThroughput(const std::string& name, int rounds, double ours_bytes, const std::function<void()>& ours,
                            double other_bytes, const std::function<void()>& other, std::optional<Target> target) {
  std::vector<double> our_rates, other_rates;
  ours();
  other();
  for (int round = 0; round < rounds; ++round) {
    our_rates.push_back(ours_bytes / Seconds(ours) * 1e-9);
    other_rates.push_back(other_bytes / Seconds(other) * 1e-9);
  }
  PrintRow(name, Median(our_rates), Median(other_rates), "GB/s", target);
}

}  // namespace kvist

#endif  // KVIST_TESTS_BENCH_ROWS_H_
