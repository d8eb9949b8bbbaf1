// Membership from one JSON file: for one machine, for tests, and for clusters whose members do not change.
//
//   {"view": 1,
//    "nodes": [{"id": "n0", "address": "127.0.0.1:7070", "weight": 1, "capacity": "256MiB"},
//              {"id": "n1", "address": "127.0.0.1:0",    "weight": 2, "capacity": "512MiB"}]}
//
// `weight` may be left out (1); `capacity` may also be a number of bytes. A port of 0 means chosen by the system: the
// node publishes the address that it bound in <cluster file>.d/<id>.address, and readers find it there.
//
// Threads every function may be called from any thread and process; publishing is atomic.
// Errors  sentences that name the file.
#ifndef KVIST_SERVICES_CLUSTER_STATIC_FILE_H_
#define KVIST_SERVICES_CLUSTER_STATIC_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"

namespace kvist {

// Errors: InvalidArgument names everything that is wrong at once: what ValidateView finds, fields that are missing,
// unknown or of another type, addresses and sizes that cannot be read.
absl::StatusOr<View> ParseClusterFile(absl::string_view json);

// Errors: NotFound if the file cannot be opened; those of ParseClusterFile, with the file's name in front.
absl::StatusOr<View> ReadClusterFile(const std::string& path);

// Where node `id` publishes its bound data address, and that of its HTTP port.
std::string AddressFile(const std::string& cluster_file, const NodeId& id);
std::string HttpAddressFile(const std::string& cluster_file, const NodeId& id);

// Writes the address that a node has bound, by a file of another name and a rename: a reader sees all of it or none.
// Errors: InvalidArgument for a port of 0; Unavailable if the folder or the file cannot be written.
absl::Status PublishAddress(const std::string& cluster_file, const NodeId& id, const Address& bound);
absl::Status PublishHttpAddress(const std::string& cluster_file, const NodeId& id, const Address& bound);

// Fills in the ports of `view` that are 0 from the published files; waits until the deadline for those that are
// missing. Errors: Unavailable names the nodes that have not published; their ports are 0 still, all others are filled
// in, so a
//         reader may go on and take those nodes as down.
absl::Status ResolveAddresses(const std::string& cluster_file, absl::Time deadline, const Clock& clock, View* view);

// What a worker starts with: the file's view, its addresses resolved as far as they can be by the deadline.
// Errors: those of ReadClusterFile; Unavailable if no node at all has an address.
absl::StatusOr<View> LoadView(const std::string& cluster_file, absl::Time deadline, const Clock& clock);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_STATIC_FILE_H_
