// A client, or only the view, of the cluster that a command names: by its file, or by the address of any node.
#ifndef KVIST_SERVICES_CTL_OPEN_CLIENT_H_
#define KVIST_SERVICES_CTL_OPEN_CLIENT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "services/ctl/flags.h"
#include "services/worker/client.h"

namespace kvist {

// Errors: those of LoadView and Client::Create; Unavailable says what each node of --node answered.
absl::StatusOr<std::unique_ptr<Client>> OpenClient(const Command& command, Namespace ns, Transport* transport);

// A namespace that stands for none: for commands that ask nodes, not for blocks.
Namespace AnyNamespace();

absl::StatusOr<View> OpenView(const Command& command, Transport* transport);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_OPEN_CLIENT_H_
