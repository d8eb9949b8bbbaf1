// The right to be one node of a cluster file. Two processes under one id would take turns in publishing their addresses,
// and neither would see the other; with etcd, the record's lease does this.
//
// Life    as long as the object: it is a lock on <cluster file>.d/<id>.lock, which the system takes back when the process
//         ends, however it ends. The file stays, and means nothing by itself.
// Threads any.
#ifndef KVIST_SERVICES_CLUSTER_NODE_CLAIM_H_
#define KVIST_SERVICES_CLUSTER_NODE_CLAIM_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/cluster/view.h"

namespace kvist {

class NodeClaim {
 public:
  // Does not wait.
  // Errors: AlreadyExists  another process is this node; the sentence says which, where, and what to do;
  //         Unavailable    the folder or the file cannot be written.
  static absl::StatusOr<std::unique_ptr<NodeClaim>> Take(const std::string& cluster_file, const NodeId& id);
  ~NodeClaim();
  NodeClaim(const NodeClaim&) = delete;
  NodeClaim& operator=(const NodeClaim&) = delete;

 private:
  explicit NodeClaim(int file) : file_(file) {}

  const int file_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_NODE_CLAIM_H_
