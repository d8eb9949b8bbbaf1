#include "tests/chaos/figures.h"

#include <algorithm>
#include <cmath>

namespace kvist::testing {

using Json = nlohmann::ordered_json;

void Latencies::Add(absl::Duration took) {
  const double us = std::max(1.0, absl::ToDoubleMicroseconds(took));
  const size_t bucket = static_cast<size_t>(8 * std::log2(us));
  ++buckets_[std::min(bucket, buckets_.size() - 1)];
  ++count_;
  longest_s_ = std::max(longest_s_, absl::ToDoubleSeconds(took));
}

double Latencies::PercentileUs(double part) const {
  const uint64_t below = static_cast<uint64_t>(part * static_cast<double>(count_));
  uint64_t seen = 0;
  for (size_t i = 0; i < buckets_.size() && count_ > 0; ++i) {
    seen += buckets_[i];
    if (seen > below || seen == count_) return std::exp2(static_cast<double>(i + 1) / 8);
  }
  return 0;
}

void Figures::Took(Call call, absl::Duration took) {
  std::lock_guard lock(mutex_);
  latencies_[static_cast<size_t>(call)].Add(took);
  late_ += took >= deadline_;
}

void Figures::Count(const Read& read) {
  std::lock_guard lock(mutex_);
  reads_ += read.asked;
  hits_ += read.delivered;
  wrong_ += read.wrong;
  bytes_ += read.bytes;
  for (const std::string& owner : read.owners) ++reads_by_owner_[owner];
  if (read.delivered == read.asked) return;
  misses_[read.miss] += read.asked - read.delivered;
  ++misses_by_owner_[read.owners.back()];
  if (!read.miss_why.empty()) examples_["miss " + read.miss] = read.miss_why;
}

void Figures::CountPut(const PutResult& put) {
  std::lock_guard lock(mutex_);
  stored_ += put.stored;
  put_failures_ += put.failed;
  if (put.failed > 0) examples_["put"] = put.failure;
}

void Figures::Fault(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  ++faults_;
  examples_["fault"] = status.ToString();
}

void Figures::Wrong(const std::string& example) {
  std::lock_guard lock(mutex_);
  examples_["wrong"] = example;
}

void Figures::Arrival(bool dropped) {
  std::lock_guard lock(mutex_);
  ++arrivals_;
  dropped_ += dropped;
}

uint64_t Figures::verified() const {
  std::lock_guard lock(mutex_);
  return hits_;
}

uint64_t Figures::wrong() const {
  std::lock_guard lock(mutex_);
  return wrong_;
}

Json Figures::ToJson(double seconds, bool final, const ClientCounters& counters) const {
  std::lock_guard lock(mutex_);
  Json calls;
  const char* const names[] = {"match", "get", "put"};
  for (size_t i = 0; i < latencies_.size(); ++i) {
    calls[names[i]] = {{"p50_us", std::round(latencies_[i].PercentileUs(0.5))},
                       {"p99_us", std::round(latencies_[i].PercentileUs(0.99))},
                       {"longest_s", latencies_[i].longest_s()}};
  }
  return {{"final", final},
          {"seconds", seconds},
          {"reads", reads_},
          {"hits", hits_},
          {"wrong", wrong_},
          {"bytes", bytes_},
          {"stored", stored_},
          {"put_failures", put_failures_},
          {"faults", faults_},
          {"late", late_},
          {"arrivals", arrivals_},
          {"dropped", dropped_},
          {"misses", misses_},
          {"reads_by_owner", reads_by_owner_},
          {"misses_by_owner", misses_by_owner_},
          {"calls", calls},
          {"retries", counters.retries},
          {"hedges", counters.hedges},
          {"failovers", counters.failovers},
          {"damaged", counters.damaged},
          {"adoptions", counters.adoptions},
          {"openings", counters.openings},
          {"examples", examples_}};
}

}  // namespace kvist::testing
