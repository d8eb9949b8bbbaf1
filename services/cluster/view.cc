#include "services/cluster/view.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvist {
namespace {

constexpr size_t kMaxNodeIdLength = 63;
constexpr size_t kMaxQuoted = 300;  // of a text that somebody else wrote: an address of 253 characters and its port fit

std::string NodeIdProblem(const std::string& id) {
  if (id.empty()) return "its id is empty";
  if (id.size() > kMaxNodeIdLength) return absl::StrCat("its id is longer than ", kMaxNodeIdLength, " characters");
  if (id.front() == '.') return "its id starts with a dot";
  for (const char c : id) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '_' && c != '-') return "its id may hold only A-Z a-z 0-9 . _ -";
  }
  return "";
}

bool IsHost(absl::string_view host) {
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  const absl::string_view inner = bracketed ? host.substr(1, host.size() - 2) : host;
  const absl::string_view others = bracketed ? ":.%" : ".-_";
  return !inner.empty() && std::all_of(inner.begin(), inner.end(), [others](char c) {
    return absl::ascii_isalnum(c) || others.find(c) != others.npos;
  });
}

void FindNodeProblems(const Node& node, const std::string& name, std::vector<std::string>* problems) {
  const std::string id_problem = NodeIdProblem(node.id.value);
  if (!id_problem.empty()) problems->push_back(absl::StrCat(name, ": ", id_problem));
  if (node.address.host.empty()) problems->push_back(absl::StrCat(name, ": its address has no host"));
  if (!(node.weight > 0) || !std::isfinite(node.weight)) {
    problems->push_back(absl::StrCat(name, ": weight ", node.weight, " is not positive"));
  }
  if (!(node.ramp >= 0 && node.ramp <= 1)) {
    problems->push_back(absl::StrCat(name, ": ramp ", node.ramp, " is not 0 to 1"));
  }
}

}  // namespace

absl::string_view NodeStateName(NodeState state) {
  switch (state) {
    case NodeState::kServing:
      return "serving";
    case NodeState::kJoining:
      return "joining";
    case NodeState::kDraining:
      return "draining";
  }
  return "unknown";
}

std::string Address::ToString() const { return absl::StrCat(host, ":", port); }

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  const absl::string_view host = text.substr(0, colon);
  const absl::string_view digits = colon == text.npos ? absl::string_view() : text.substr(colon + 1);
  uint32_t port = 0;
  // Compared with its own digits: SimpleAtoi also takes signs, spaces and leading zeros, and an address has one
  // spelling.
  const bool port_fits = absl::SimpleAtoi(digits, &port) && port <= 65535 && absl::StrCat(port) == digits;
  if (!port_fits || !IsHost(host)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMaxQuoted)),
                                                   "\" is not an address: write host:port, with a name, an IPv4 "
                                                   "address or an IPv6 address in brackets, and a port of 0 to 65535"));
  }
  return Address{std::string(host), static_cast<uint16_t>(port)};
}

const Node* View::Find(const NodeId& id) const {
  for (const Node& node : nodes) {
    if (node.id == id) return &node;
  }
  return nullptr;
}

absl::Status ValidateView(const View& view) {
  std::vector<std::string> problems;
  if (view.number.value == 0) problems.push_back("view is 0: count from 1, and up with every change");
  if (view.nodes.empty()) problems.push_back("no nodes");
  std::set<NodeId> ids;
  std::set<std::string> addresses;
  for (size_t i = 0; i < view.nodes.size(); ++i) {
    const Node& node = view.nodes[i];
    const std::string name =
        node.id.value.empty() ? absl::StrCat("node ", i) : absl::StrCat("node \"", node.id.value, "\"");
    FindNodeProblems(node, name, &problems);
    if (!node.id.value.empty() && !ids.insert(node.id).second) problems.push_back(absl::StrCat(name, ": named twice"));
    const std::string address = node.address.ToString();
    if (node.address.port != 0 && !addresses.insert(address).second) {
      problems.push_back(absl::StrCat(name, ": address ", address, " is another node's"));
    }
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

}  // namespace kvist
