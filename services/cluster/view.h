// The numbered membership of a cluster: who is in it, where, and with what share. A value; whoever learns of a change
// (a static file, etcd) makes a new View with a higher number.
//
// Units   weight is a share without a unit; sizes are bytes.
// Threads a View is a plain value.
#ifndef KVIST_SERVICES_CLUSTER_VIEW_H_
#define KVIST_SERVICES_CLUSTER_VIEW_H_

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvist {

// 1 to 63 of [A-Za-z0-9._-], not starting with a dot: it names files, metrics labels and log fields.
struct NodeId {
  std::string value;
  friend bool operator==(const NodeId&, const NodeId&) = default;
  friend auto operator<=>(const NodeId&, const NodeId&) = default;
};

struct ViewNumber {
  uint64_t value = 0;  // 0 = no view
  friend bool operator==(const ViewNumber&, const ViewNumber&) = default;
  friend auto operator<=>(const ViewNumber&, const ViewNumber&) = default;
};

// Of the wire between nodes and workers. A node leaves out of its view the records of a later one, and says so.
inline constexpr uint32_t kProtocolVersion = 1;

struct Address {
  std::string host;   // a name, an IPv4 address, or an IPv6 address in brackets
  uint16_t port = 0;  // 0 = chosen by the system when the node starts
  std::string ToString() const;
  friend bool operator==(const Address&, const Address&) = default;
};

// Errors: InvalidArgument quotes the text: no colon, a host with other characters than those of names and addresses, or
// a port that is no plain number of 0 to 65535.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

// What a node does with new blocks and how much of its share it takes (ring.h).
enum class NodeState : uint8_t {
  kServing,   // its whole share
  kJoining,   // weight * ramp: it is empty and takes over step by step; readers also ask who kept its segments before
  kDraining,  // no new blocks; readers still ask it after the new owners
};
absl::string_view NodeStateName(NodeState state);  // "serving", ...

// What a node tells the others about itself: its record.
struct Node {
  NodeId id;
  Address address;
  double weight = 1;            // share of the keys, relative to the other nodes; usually the capacity
  uint64_t capacity_bytes = 0;  // of its host tier
  NodeState state = NodeState::kServing;
  double ramp = 1;           // of a joining node: the part of its weight that counts, in [0, 1]
  uint64_t incarnation = 0;  // of this life of the node; a record of a greater one replaces a lesser. 0 in a file
  uint32_t protocol = kProtocolVersion;
  Address http{};  // of its metrics and health; port 0 = not known
  friend bool operator==(const Node&, const Node&) = default;
};

struct View {
  ViewNumber number;
  std::vector<Node> nodes;

  const Node* Find(const NodeId& id) const;  // null if it is no member
  friend bool operator==(const View&, const View&) = default;
};

// Errors: InvalidArgument names everything that is wrong at once: view 0, no node, a node twice, an id that is empty or
// holds a character that is not allowed, an empty host, an address that two nodes share, a weight that is not positive,
// a ramp outside of [0, 1].
absl::Status ValidateView(const View& view);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_VIEW_H_
