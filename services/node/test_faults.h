// Faults that chaos tests ask a node for over HTTP, only with --enable-test-faults: bits of resting blocks are flipped.
//
// Threads any.
#ifndef KVIST_SERVICES_NODE_TEST_FAULTS_H_
#define KVIST_SERVICES_NODE_TEST_FAULTS_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "cachestore/host_tier.h"

namespace kvist {

// POST /test/flip?key=HEX&offset=N&mask=M   the bits of `mask` (1 to 255) in one byte of one block
// POST /test/flip?blocks=N&seed=S           one bit at a chance place in each of N blocks at chance
// `parameter` gives a parameter by name, "" if it is absent. Answers {"flipped":COUNT}.
// Errors: InvalidArgument  a parameter is missing or no such number.
absl::StatusOr<std::string> FlipBits(HostTier* store,
                                     const std::function<std::string(const std::string& name)>& parameter);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_TEST_FAULTS_H_
