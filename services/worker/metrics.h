// The worker's counters as Prometheus metrics, for the process that links the library to add to what it exposes.
#ifndef KVIST_SERVICES_WORKER_METRICS_H_
#define KVIST_SERVICES_WORKER_METRICS_H_

#include <string>

#include "services/worker/client.h"

namespace kvist {

// Text format 0.0.4; names kvist_worker_*, base units, every label set present from the start. Threads pure.
std::string ExposeMetrics(const ClientCounters& counters);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_METRICS_H_
