// The commands of `kvist`: each reads its files, calls the worker library, and prints a table or JSON.
//
// Errors: the status of what could not be done. A miss is no error: it is printed with its reason.
#ifndef KVIST_SERVICES_CTL_COMMANDS_H_
#define KVIST_SERVICES_CTL_COMMANDS_H_

#include <ostream>

#include "absl/status/status.h"
#include "services/ctl/flags.h"
#include "services/transport/transport.h"

namespace kvist {

// put, get, match, stats and erase, over `transport`.
absl::Status RunClientCommand(const Command& command, Transport* transport, std::ostream& out);

// ring: pure, touches no node.
absl::Status RunRing(const Command& command, std::ostream& out);

absl::Status RunCommand(const Command& command, Transport* transport, std::ostream& out);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_COMMANDS_H_
