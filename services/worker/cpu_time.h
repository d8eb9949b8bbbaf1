// CPU time of the calling thread: what encoding and decoding cost, whatever else the machine does.
#ifndef KVIST_SERVICES_WORKER_CPU_TIME_H_
#define KVIST_SERVICES_WORKER_CPU_TIME_H_

#include <time.h>

#include "absl/time/time.h"

namespace kvist {

inline absl::Duration ThreadCpuTime() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_CPU_TIME_H_
