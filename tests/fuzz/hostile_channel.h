// A channel to one node of a HostileCluster. Internal to it.
#ifndef KVIST_TESTS_FUZZ_HOSTILE_CHANNEL_H_
#define KVIST_TESTS_FUZZ_HOSTILE_CHANNEL_H_

#include <cstddef>
#include <memory>

#include "services/transport/transport.h"
#include "tests/fuzz/hostile_cluster.h"

namespace kvist::fuzz {

// REQUIRES: node < kHostileNodes; `cluster` outlives the channel.
std::unique_ptr<Channel> NewHostileChannel(HostileCluster* cluster, size_t node);

}  // namespace kvist::fuzz

#endif  // KVIST_TESTS_FUZZ_HOSTILE_CHANNEL_H_
