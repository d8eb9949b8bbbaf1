// The program kvistd: reads flags, runs a node, stops it gracefully on SIGTERM or SIGINT, at once on a second one.
#ifndef KVIST_SERVICES_NODE_KVISTD_H_
#define KVIST_SERVICES_NODE_KVISTD_H_

#include "services/node/node.h"

namespace kvist {

// To be called by main, before any thread is started. Returns the exit status: 0 stopped, 1 fault or stopped at once,
// 2 wrong flags.
int RunKvistd(int argc, const char* const* argv, const DeviceOpener& open_device);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_KVISTD_H_
