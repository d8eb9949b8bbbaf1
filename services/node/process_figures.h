// What every Prometheus client says of its process: CPU time, memory, open files and when it started. Read from /proc.
#ifndef KVIST_SERVICES_NODE_PROCESS_FIGURES_H_
#define KVIST_SERVICES_NODE_PROCESS_FIGURES_H_

#include "services/node/metrics.h"

namespace kvist {

// The names that client libraries agree on: process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds,
// process_max_fds, process_start_time_seconds. What /proc does not tell is 0.
void AddProcessFigures(Metrics* metrics);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PROCESS_FIGURES_H_
