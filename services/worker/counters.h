// What a client counts. Internal to services/worker; ClientCounters is its snapshot.
//
// Threads any.
#ifndef KVIST_SERVICES_WORKER_COUNTERS_H_
#define KVIST_SERVICES_WORKER_COUNTERS_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "kvist/v1/cache.pb.h"

namespace kvist {

struct Counters {
  std::atomic<uint64_t> matched_blocks = 0, fetched_blocks = 0, stored_blocks = 0, retries = 0;
  std::atomic<uint64_t> stale_views = 0, refreshes = 0, refused_views = 0;
  std::atomic<uint64_t> openings = 0, failovers = 0, hedges = 0, adoptions = 0, damaged = 0;
  std::atomic<uint64_t> fetched_profiles = 0, refused_profiles = 0;
  std::atomic<uint64_t> fetched_bytes = 0, stored_bytes = 0;
  std::atomic<int64_t> encode_ns = 0, decode_ns = 0;  // CPU time over all threads
  std::array<std::atomic<uint64_t>, v1::MissReason_ARRAYSIZE> misses{};
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_COUNTERS_H_
