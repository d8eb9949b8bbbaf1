// kvistd's configuration: one struct, filled from flags and the cluster file in one place, validated once, passed
// const.
#ifndef KVIST_SERVICES_NODE_CONFIG_H_
#define KVIST_SERVICES_NODE_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/access/access.h"
#include "services/cluster/membership.h"
#include "services/cluster/view.h"
#include "services/node/limits.h"
#include "services/node/profile_shelf.h"
#include "services/transport/tls.h"

namespace kvist {

// Of the device tier. Nothing of it is there unless `capacity_bytes` is set.
struct DeviceConfig {
  uint64_t capacity_bytes = 0;
  int ordinal = 0;                       // of the GPU, as CUDA counts
  uint64_t staging_bytes = 64ull << 20;  // pinned host memory that copies go through
  std::string ipc_socket;                // for workers on this GPU; "" = not served
  std::string nccl_library;              // a file, or a name as for dlopen; "" = not served
};

struct NodeConfig {
  NodeId id;
  ViewNumber view;              // of the cluster file
  std::string cluster_file;     // "" = members in etcd, or a node by itself
  EtcdOptions etcd;             // no endpoints = not in etcd
  Address listen;               // of the data port; port 0 = chosen by the system
  Address advertise;            // where others reach it; empty host = the listen address; port 0 = the bound port
  TlsOptions tls;               // of the data port, and towards peers; no files = plaintext
  bool insecure = false;        // plaintext beyond loopback is meant
  std::string peer_token_file;  // with the token to show to peers; "" = none
  AccessOptions access;         // no access file = whoever is let in may do everything
  Address http;                 // of /metrics, /healthz, /readyz
  uint64_t capacity_bytes = 0;  // of the host tier
  DeviceConfig device;
  double weight = 0;  // share of the keys; 0 = the capacity in GiB
  absl::Duration max_lease = absl::Seconds(30);
  absl::Duration join_ramp = absl::Seconds(30);       // time to take over the whole share
  absl::Duration join_window = absl::Seconds(30);     // and time more in which readers ask the previous owner too
  absl::Duration drain = absl::Seconds(10);           // what open calls get to end in when the node stops
  absl::Duration drain_deadline = absl::Seconds(30);  // of handing blocks over when the node leaves
  uint64_t drain_budget_bytes = 0;                    // of that; 0 = half of the capacity
  uint64_t scrub_rate = 64ull << 20;                  // bytes of resting blocks verified a second; 0 = none
  absl::Duration scrub_pause = absl::Seconds(10);
  ProfileShelfOptions profiles;
  AdmissionLimits admission;
  absl::Duration slow_call = absl::Seconds(1);  // a call that takes so long is logged
  uint32_t max_connections = 4096;              // of the data port
  bool prefault = true;                         // take the memory at start, not at first use
  bool enable_test_faults = false;              // POST /test/flip
  bool debug_pages = false;                     // GET /debug
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
