// kvistd's configuration: one struct, filled from flags and the cluster file in one place, validated once, passed
// const.
#ifndef KVIST_SERVICES_NODE_CONFIG_H_
#define KVIST_SERVICES_NODE_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"

namespace kvist {

struct NodeConfig {
  NodeId id;
  ViewNumber view;
  std::string cluster_file;  // "" = a node by itself
  Address listen;            // of the data port; port 0 = chosen by the system
  Address http;              // of /metrics, /healthz, /readyz
  uint64_t capacity_bytes = 0;
  absl::Duration max_lease = absl::Seconds(30);
  absl::Duration drain = absl::Seconds(10);  // what open calls get to end in when the node stops
  bool prefault = true;                      // take the memory at start, not at first use
  std::string log_level = "info";
};

struct ParsedFlags {
  NodeConfig config;
  std::string print_and_exit;  // of --help or --version; empty = serve
};

// Errors: InvalidArgument  all wrong flags, one a line, each with what is allowed.
absl::StatusOr<ParsedFlags> ParseFlags(int argc, const char* const* argv);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_CONFIG_H_
