// Membership from one JSON file: for one machine, for tests, and for clusters whose members do not change.
//
//   {"view": 1,
//    "nodes": [{"id": "n0", "address": "127.0.0.1:7070", "weight": 1, "capacity": "256MiB"},
//              {"id": "n1", "address": "127.0.0.1:0",    "weight": 2, "capacity": "512MiB"}]}
//
// `weight` may be left out (1); `capacity` may also be a number of bytes. A port of 0 means chosen by the system: the
// node publishes the address that it bound in <cluster file>.d/<id>.address, and readers find it there.
//
// Numbers a view's number is the file's plus one for each address that was published so far: every publication of
//         another address counts in its own file, "127.0.0.1:4711 3". Whoever reads the same files has the same view
//         under the same number, and a number stands for one list. (Deleting such a file makes numbers go down.)
// Threads every function may be called from any thread and process; publishing is atomic.
// Errors  sentences that name the file.
#ifndef KVIST_SERVICES_CLUSTER_STATIC_FILE_H_
#define KVIST_SERVICES_CLUSTER_STATIC_FILE_H_

#include <string>
#include <vector>

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

// A cluster file and what its nodes have published, as both stood at one moment.
struct ClusterFiles {
  View file;  // as it is written
  View view;  // with the published addresses in the place of ports of 0, and its number raised by all publications
  std::vector<std::string> missing;  // the address files that would be needed and are not there
};

// Errors: those of ReadClusterFile; Unavailable if the files change faster than they are read.
absl::StatusOr<ClusterFiles> ReadClusterFiles(const std::string& path);

// Where node `id` publishes its bound data address, and that of its HTTP port.
std::string AddressFile(const std::string& cluster_file, const NodeId& id);
std::string HttpAddressFile(const std::string& cluster_file, const NodeId& id);

// Writes the address that a node has bound, by a file of another name and a rename: a reader sees all of it or none.
// REQUIRES: one process publishes for a node at a time (node_claim.h).
// Errors: InvalidArgument for a port of 0; Unavailable if the folder or the file cannot be written.
absl::Status PublishAddress(const std::string& cluster_file, const NodeId& id, const Address& bound);
absl::Status PublishHttpAddress(const std::string& cluster_file, const NodeId& id, const Address& bound);

// What a worker starts with: the view, once every node has published its address, or as it is at the deadline: the ports
// of nodes that have not are 0 then, and they count as down.
// Errors: those of ReadClusterFiles; Unavailable if no node at all has an address.
absl::StatusOr<View> LoadView(const std::string& cluster_file, absl::Time deadline, const Clock& clock);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_STATIC_FILE_H_
