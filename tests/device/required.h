// Whether this run is there to prove a device, so that its absence is a failure and no test is skipped for want of it:
// KVIST_REQUIRE_DEVICE is set (tests/gpu/gpu-check sets it).
#ifndef KVIST_TESTS_DEVICE_REQUIRED_H_
#define KVIST_TESTS_DEVICE_REQUIRED_H_

#include <cstdlib>

namespace kvist::testing {

inline bool DeviceIsRequired() { return std::getenv("KVIST_REQUIRE_DEVICE") != nullptr; }

}  // namespace kvist::testing

#endif  // KVIST_TESTS_DEVICE_REQUIRED_H_
