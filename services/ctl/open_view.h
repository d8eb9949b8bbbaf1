// The view that a command works on: from the cluster file, or from the nodes that --node names.
#ifndef KVIST_SERVICES_CTL_OPEN_VIEW_H_
#define KVIST_SERVICES_CTL_OPEN_VIEW_H_

#include "absl/status/statusor.h"
#include "services/cluster/view.h"
#include "services/ctl/flags.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

// Errors: those of LoadView; Unavailable names each node that was asked and what it said.
absl::StatusOr<View> OpenView(const Command& command, Transport* transport, Runtime* runtime);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_OPEN_VIEW_H_
