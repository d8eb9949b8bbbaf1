// The commands of `kvist` that are Python: this program gives way to the interpreter, which runs the kvist package.
//
// The interpreter is $KVIST_PYTHON, else the one that tools/setup made in this source tree, else python3 of PATH. The package is the one of
// the source tree that this program was built in, or ../lib/kvist/python beside an installed one; else what the interpreter has.
#ifndef KVIST_SERVICES_CTL_PYTHON_COMMAND_H_
#define KVIST_SERVICES_CTL_PYTHON_COMMAND_H_

#include <string_view>

#include "absl/status/status.h"

namespace kvist {

// One line each for --help.
inline constexpr const char* kPythonCommands =
    "Commands in Python (kvist COMMAND --help):\n"
    "  eval                        Measures what codecs do to a model's answers\n"
    "  calibrate                   Makes a model's profile of codec q from texts";

bool IsPythonCommand(std::string_view name);

// Does not return if all goes well: the interpreter's exit is this program's. `argv` as main's; argv[1] is the command.
// Errors: NotFound  no interpreter; the message says what to install.
absl::Status BecomePython(int argc, char** argv);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_PYTHON_COMMAND_H_
