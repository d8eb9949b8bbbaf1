// Time and chance are passed in, never global: a simulation runs the same code on a virtual clock and a seeded source.
#ifndef KVIST_SERVICES_TRANSPORT_CLOCK_H_
#define KVIST_SERVICES_TRANSPORT_CLOCK_H_

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvist {

using Clock = std::function<absl::Time()>;  // any thread
inline Clock RealClock() {
  return [] { return absl::Now(); };
}

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_CLOCK_H_
