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

// put, get, match, explain, stats and erase.
absl::Status RunClientCommand(const Command& command, Transport* transport, std::ostream& out);

// ring: pure, once it has a view.
absl::Status RunRing(const Command& command, Transport* transport, std::ostream& out);

// drain: starts it and prints how far it is, until the node has left.
absl::Status RunDrain(const Command& command, Transport* transport, std::ostream& out);

// top: prints frames until its output is closed, or one.
absl::Status RunTop(const Command& command, Transport* transport, std::ostream& out);

// token: prints one, and the line for the token file.
absl::Status RunToken(const Command& command, std::ostream& out);

// profile: shows one, by its file or from the nodes; has the nodes keep one; fetches one into a file.
absl::Status RunProfile(const Command& command, Transport* transport, std::ostream& out);

absl::Status RunCommand(const Command& command, Transport* transport, std::ostream& out);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_COMMANDS_H_
