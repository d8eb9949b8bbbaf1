#include "services/node/config.h"

#include <CLI/CLI.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/byte_size.h"
#include "services/cluster/static_file.h"
#include "services/node/log.h"
#include "services/version.h"

namespace kvist {
namespace {

// Flags as the user wrote them. CLI11 would stop at the first value that it cannot convert; all of them are to be
// named.
struct RawFlags {
  std::string cluster, node, listen, capacity, http = "127.0.0.1:0", max_lease = "30s", drain = "10s",
                                               log_level = "info";
  bool no_prefault = false, version = false;
};

class Problems {
 public:
  template <typename T>
  void Take(const char* flag, absl::StatusOr<T> value, T* out) {
    if (value.ok()) {
      *out = *std::move(value);
    } else {
      Add(flag, std::string(value.status().message()));
    }
  }
  void Add(const char* flag, const std::string& what) { problems_.push_back(absl::StrCat(flag, ": ", what)); }
  absl::Status status() const {
    return problems_.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
  }

 private:
  std::vector<std::string> problems_;
};

absl::StatusOr<absl::Duration> ParseDurationWithin(const std::string& text, absl::Duration most) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration < absl::ZeroDuration() || duration > most) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no duration of 0s to ", absl::FormatDuration(most),
                                                   " (write 500ms, 10s, 1m30s)"));
  }
  return duration;
}

// What the cluster file says of this node; flags of the same name win.
void FillFromClusterFile(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  const absl::StatusOr<View> view = ReadClusterFile(raw.cluster);
  if (!view.ok()) return problems->Add("--cluster", std::string(view.status().message()));
  const Node* node = view->Find(config->id);
  if (node == nullptr) {
    std::vector<std::string> ids;
    for (const Node& other : view->nodes) ids.push_back(other.id.value);
    return problems->Add(
        "--node", absl::StrCat("'", raw.node, "' is not in ", raw.cluster, ", which names ", absl::StrJoin(ids, ", ")));
  }
  config->view = view->number;
  config->listen = node->address;
  config->capacity_bytes = node->capacity_bytes;
}

absl::StatusOr<NodeConfig> Validate(const RawFlags& raw) {
  NodeConfig config;
  Problems problems;
  config.id.value = raw.node;
  config.cluster_file = raw.cluster;
  config.prefault = !raw.no_prefault;
  config.log_level = raw.log_level;
  if (raw.cluster.empty()) {
    if (raw.listen.empty())
      problems.Add("--listen", "needed without --cluster: the address of the data port, host:port");
    if (raw.capacity.empty())
      problems.Add("--capacity", "needed without --cluster: the host tier's bytes, for example 8GiB");
    if (raw.node.empty()) config.id.value = "local";
  } else if (raw.node.empty()) {
    problems.Add("--node", "needed with --cluster: which of its nodes this is");
  } else {
    FillFromClusterFile(raw, &config, &problems);
  }
  if (!raw.listen.empty()) problems.Take("--listen", ParseAddress(raw.listen), &config.listen);
  if (!raw.capacity.empty()) problems.Take("--capacity", ParseByteSize(raw.capacity), &config.capacity_bytes);
  problems.Take("--http", ParseAddress(raw.http), &config.http);
  problems.Take("--max-lease", ParseDurationWithin(raw.max_lease, absl::Minutes(10)), &config.max_lease);
  problems.Take("--drain", ParseDurationWithin(raw.drain, absl::Minutes(30)), &config.drain);
  if (absl::Status status = SetLogLevel(raw.log_level); !status.ok())
    problems.Add("--log-level", std::string(status.message()));
  if (!problems.status().ok()) return problems.status();
  return config;
}

}  // namespace

absl::StatusOr<ParsedFlags> ParseFlags(int argc, const char* const* argv) {
  RawFlags raw;
  CLI::App app("kvistd: one node of Kvist, a store for quantized KV blocks", "kvistd");
  app.allow_extras();
  app.add_option("--cluster", raw.cluster, "Static cluster file (JSON) that names the members");
  app.add_option("--node", raw.node, "Which node of the cluster file this is");
  app.add_option("--listen", raw.listen,
                 "Data port, host:port; port 0 = chosen by the system (default: from the cluster file)");
  app.add_option("--capacity", raw.capacity, "Host tier, for example 8GiB (default: from the cluster file)");
  app.add_option("--http", raw.http, "Port of /metrics, /healthz and /readyz")->capture_default_str();
  app.add_option("--max-lease", raw.max_lease, "Longest lease that a worker is granted")->capture_default_str();
  app.add_option("--drain", raw.drain, "Time that open calls get to end in on SIGTERM")->capture_default_str();
  app.add_option("--log-level", raw.log_level, "debug, info, warning or error")->capture_default_str();
  app.add_flag("--no-prefault", raw.no_prefault, "Take memory at first use instead of at start");
  app.add_flag("--version", raw.version, "Print the version and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return ParsedFlags{{}, app.help()};
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  if (raw.version) return ParsedFlags{{}, absl::StrCat("kvistd ", kVersion, "\n")};
  absl::StatusOr<NodeConfig> config = Validate(raw);
  std::vector<std::string> problems;
  for (const std::string& extra : app.remaining())
    problems.push_back(absl::StrCat(extra, ": unknown flag; see --help"));
  if (!config.ok()) problems.push_back(std::string(config.status().message()));
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrJoin(problems, "\n"));
  return ParsedFlags{*std::move(config), ""};
}

}  // namespace kvist
