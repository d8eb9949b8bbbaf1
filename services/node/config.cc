#include "services/node/config.h"

#include <arpa/inet.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cluster/byte_size.h"
#include "services/cluster/static_file.h"
#include "services/node/log.h"
#include "services/version.h"

namespace kvist {
namespace {

// Flags as the user wrote them. CLI11 would stop at the first value that it cannot convert; all of them are to be
// named.
struct RawFlags {
  std::string cluster, etcd, node, listen, advertise, capacity, weight, http = "127.0.0.1:0";
  std::string etcd_user, etcd_password_file, etcd_ca, etcd_cert, etcd_key, cluster_name = "kvist";
  std::string max_lease = "30s", join_ramp = "30s", join_window = "30s", drain = "10s", drain_deadline = "30s",
              drain_budget, scrub_rate = "64MiB", scrub_pause = "10s", log_level = "info";
  std::string max_gets = "256", max_queued = "512MiB", max_puts = "128", max_matches = "64", max_explains = "4",
              max_pinned = "0.25", max_reserved = "0.5", read_stall = "10s", write_stall = "10s",
              min_read_rate = "64KiB", min_write_rate = "64KiB", max_connections = "4096", slow_call = "1s";
  std::string device_capacity, device = "0", device_staging = "64MiB", device_socket, nccl;
  std::string profile_capacity = "256MiB", profiles;
  std::string access, tokens, access_refresh = "10s", peer_token;
  std::string tls_cert, tls_key, tls_ca, tls_server_name, tls_refresh = "10s";
  bool no_prefault = false, version = false, enable_test_faults = false, insecure = false, debug_pages = false;
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

absl::StatusOr<double> ParseNumberWithin(const std::string& text, double least, double most) {
  double number = 0;
  if (!absl::SimpleAtod(text, &number) || !(number >= least) || !(number <= most)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no number of ", least, " to ", most));
  }
  return number;
}

absl::StatusOr<uint32_t> ParseCount(const std::string& text) {
  uint32_t count = 0;
  if (!absl::SimpleAtoi(text, &count) || count == 0 || count > 1'000'000) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no number of 1 to 1000000"));
  }
  return count;
}

absl::StatusOr<absl::Duration> ParseRefresh(const std::string& text) {
  absl::StatusOr<absl::Duration> refresh = ParseDurationWithin(text, absl::Hours(24));
  if (refresh.ok() && *refresh < absl::Milliseconds(10)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is less than 10ms"));
  }
  return refresh;
}

// "0" and sizes such as 64MiB.
absl::StatusOr<uint64_t> ParseSizeOrZero(const std::string& text) {
  return text == "0" ? absl::StatusOr<uint64_t>(0) : ParseByteSize(text);
}

absl::StatusOr<std::vector<std::string>> ParseEndpoints(const std::string& text) {
  const std::vector<std::string> endpoints = absl::StrSplit(text, ',');
  for (const std::string& endpoint : endpoints) {
    const absl::StatusOr<Address> address = ParseAddress(endpoint);
    if (!address.ok()) return address.status();
    if (address->port == 0) return absl::InvalidArgumentError(absl::StrCat("'", endpoint, "' has no port"));
  }
  return endpoints;
}

absl::StatusOr<std::string> ReadSecret(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("'", path, "' cannot be read"));
  std::string secret((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StripTrailingAsciiWhitespace(&secret);
  if (secret.empty()) return absl::InvalidArgumentError(absl::StrCat("'", path, "' is empty"));
  return secret;
}

bool IsLoopback(const std::string& host) {
  in_addr address = {};
  if (inet_pton(AF_INET, host.c_str(), &address) == 1) return ntohl(address.s_addr) >> 24 == 127;
  return host == "localhost" || host == "[::1]";
}

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "[::]"; }

// What the cluster file says of this node; flags of the same name win.
void FillFromClusterFile(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  if (raw.node.empty()) return problems->Add("--node", "needed with --cluster: which of its nodes this is");
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
  config->weight = node->weight;
}

void FillEtcd(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  if (raw.node.empty()) problems->Add("--node", "needed with --etcd: the name of this node, its own among all nodes");
  if (!raw.cluster.empty()) problems->Add("--etcd", "the members stand in --cluster or in --etcd, not in both");
  problems->Take("--etcd", ParseEndpoints(raw.etcd), &config->etcd.endpoints);
  config->etcd.cluster = raw.cluster_name;
  config->etcd.user = raw.etcd_user;
  config->etcd.ca_file = raw.etcd_ca;
  config->etcd.cert_file = raw.etcd_cert;
  config->etcd.key_file = raw.etcd_key;
  if (raw.etcd_user.empty() != raw.etcd_password_file.empty()) {
    problems->Add("--etcd-user", "goes with --etcd-password-file: both or neither");
  } else if (!raw.etcd_user.empty()) {
    problems->Take("--etcd-password-file", ReadSecret(raw.etcd_password_file), &config->etcd.password);
  }
  if (raw.etcd_cert.empty() != raw.etcd_key.empty()) {
    problems->Add("--etcd-cert", "goes with --etcd-key: both or neither");
  }
  if (raw.etcd_ca.empty() && !raw.etcd_cert.empty())
    problems->Add("--etcd-cert", "needs --etcd-ca: without it etcd is spoken to in plaintext");
}

void FillAddresses(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  if (raw.cluster.empty() && raw.listen.empty()) {
    problems->Add("--listen", "needed without --cluster: the address of the data port, host:port");
  }
  if (raw.cluster.empty() && raw.capacity.empty()) {
    problems->Add("--capacity", "needed without --cluster: the host tier's bytes, for example 8GiB");
  }
  if (!raw.listen.empty()) problems->Take("--listen", ParseAddress(raw.listen), &config->listen);
  if (!raw.advertise.empty()) problems->Take("--advertise", ParseAddress(raw.advertise), &config->advertise);
  if (!raw.etcd.empty() && raw.advertise.empty() && IsWildcard(config->listen.host)) {
    problems->Add("--advertise", absl::StrCat("needed with --listen ", raw.listen,
                                              ": the address under which other hosts reach this node, host:port"));
  }
  if (IsWildcard(config->advertise.host)) {
    problems->Add("--advertise", absl::StrCat("'", raw.advertise, "' is no address that other hosts can reach"));
  }
  problems->Take("--http", ParseAddress(raw.http), &config->http);
}

void FillLimits(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  AdmissionLimits& limits = config->admission;
  problems->Take("--max-gets", ParseCount(raw.max_gets), &limits.gets);
  problems->Take("--max-queued", ParseByteSize(raw.max_queued), &limits.queued_bytes);
  problems->Take("--max-puts", ParseCount(raw.max_puts), &limits.puts);
  problems->Take("--max-matches", ParseCount(raw.max_matches), &limits.matches);
  problems->Take("--max-explains", ParseCount(raw.max_explains), &limits.explains);
  problems->Take("--max-pinned", ParseNumberWithin(raw.max_pinned, 0, 1), &limits.pinned_fraction);
  problems->Take("--max-reserved", ParseNumberWithin(raw.max_reserved, 0, 1), &limits.reserved_fraction);
  problems->Take("--read-stall", ParseDurationWithin(raw.read_stall, absl::Minutes(10)), &limits.read_stall);
  problems->Take("--write-stall", ParseDurationWithin(raw.write_stall, absl::Minutes(10)), &limits.write_stall);
  problems->Take("--min-read-rate", ParseSizeOrZero(raw.min_read_rate), &limits.min_read_rate);
  problems->Take("--min-write-rate", ParseSizeOrZero(raw.min_write_rate), &limits.min_write_rate);
  problems->Take("--slow-call", ParseDurationWithin(raw.slow_call, absl::Hours(1)), &config->slow_call);
  problems->Take("--max-connections", ParseCount(raw.max_connections), &config->max_connections);
}

absl::StatusOr<int> ParseOrdinal(const std::string& text) {
  int ordinal = 0;
  if (!absl::SimpleAtoi(text, &ordinal) || ordinal < 0 || ordinal > 127) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no number of 0 to 127"));
  }
  return ordinal;
}

void FillDevice(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  DeviceConfig& device = config->device;
  if (!raw.device_capacity.empty()) {
    problems->Take("--device-capacity", ParseByteSize(raw.device_capacity), &device.capacity_bytes);
  }
  problems->Take("--device", ParseOrdinal(raw.device), &device.ordinal);
  problems->Take("--device-staging", ParseByteSize(raw.device_staging), &device.staging_bytes);
  device.ipc_socket = raw.device_socket;
  device.nccl_library = raw.nccl;
  for (const auto& [flag, value] : {std::pair("--device-socket", &raw.device_socket), std::pair("--nccl", &raw.nccl)}) {
    if (!value->empty() && raw.device_capacity.empty()) {
      problems->Add(flag, "needs --device-capacity: without it no block is in device memory");
    }
  }
}

void FillTls(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  TlsOptions& tls = config->tls;
  tls.cert_file = raw.tls_cert;
  tls.key_file = raw.tls_key;
  tls.ca_file = raw.tls_ca;
  tls.server_name = raw.tls_server_name;
  config->insecure = raw.insecure;
  problems->Take("--tls-refresh", ParseRefresh(raw.tls_refresh), &tls.refresh);
  if (absl::Status status = CheckAllOrNone(tls); !status.ok()) {
    problems->Add("--tls-cert, --tls-key, --tls-ca", absl::StrCat("all three or none: ", status.message()));
  }
  if (!raw.tls_server_name.empty() && !tls.any()) problems->Add("--tls-server-name", "needs --tls-cert");
  if (raw.insecure && tls.any()) problems->Add("--insecure", "give it or --tls-cert, not both");
  if (tls.any() || raw.insecure || config->listen.host.empty() || IsLoopback(config->listen.host)) return;
  problems->Add("--tls-cert",
                absl::StrCat("needed: other hosts reach ", config->listen.ToString(),
                             ", and in plaintext whoever does can read and write every block; give "
                             "--tls-cert, --tls-key and --tls-ca, or --insecure if the network is trusted"));
}

void FillAccess(const RawFlags& raw, NodeConfig* config, Problems* problems) {
  config->access.access_file = raw.access;
  config->access.token_file = raw.tokens;
  config->peer_token_file = raw.peer_token;
  problems->Take("--access-refresh", ParseRefresh(raw.access_refresh), &config->access.refresh);
  if (raw.access.empty()) {
    if (!raw.tokens.empty()) problems->Add("--tokens", "needs --access: it says what each token may do");
    return;
  }
  if (!config->tls.any() && raw.tokens.empty()) {
    problems->Add("--access", "needs --tls-cert or --tokens: else nobody could show who he is");
  }
  for (const auto& [flag, value] : {std::pair("--device-socket", &raw.device_socket), std::pair("--nccl", &raw.nccl)}) {
    if (!value->empty()) {
      problems->Add(flag,
                    "goes not with --access: workers read device memory past the node, whosever blocks lie there");
    }
  }
}

absl::StatusOr<NodeConfig> Validate(const RawFlags& raw) {
  NodeConfig config;
  Problems problems;
  config.id.value = raw.node;
  config.cluster_file = raw.cluster;
  config.prefault = !raw.no_prefault;
  config.enable_test_faults = raw.enable_test_faults;
  config.debug_pages = raw.debug_pages;
  config.log_level = raw.log_level;
  if (!raw.cluster.empty()) FillFromClusterFile(raw, &config, &problems);
  if (!raw.etcd.empty()) FillEtcd(raw, &config, &problems);
  if (config.id.value.empty()) config.id.value = "local";
  FillAddresses(raw, &config, &problems);
  FillTls(raw, &config, &problems);
  FillAccess(raw, &config, &problems);
  FillLimits(raw, &config, &problems);
  FillDevice(raw, &config, &problems);
  if (!raw.capacity.empty()) problems.Take("--capacity", ParseByteSize(raw.capacity), &config.capacity_bytes);
  if (!raw.weight.empty()) problems.Take("--weight", ParseNumberWithin(raw.weight, 1e-6, 1e9), &config.weight);
  problems.Take("--max-lease", ParseDurationWithin(raw.max_lease, absl::Minutes(10)), &config.max_lease);
  problems.Take("--join-ramp", ParseDurationWithin(raw.join_ramp, absl::Hours(24)), &config.join_ramp);
  problems.Take("--join-window", ParseDurationWithin(raw.join_window, absl::Hours(24)), &config.join_window);
  problems.Take("--drain", ParseDurationWithin(raw.drain, absl::Minutes(30)), &config.drain);
  problems.Take("--drain-deadline", ParseDurationWithin(raw.drain_deadline, absl::Hours(24)), &config.drain_deadline);
  if (!raw.drain_budget.empty()) {
    problems.Take("--drain-budget", ParseByteSize(raw.drain_budget), &config.drain_budget_bytes);
  }
  problems.Take("--profile-capacity", ParseSizeOrZero(raw.profile_capacity), &config.profiles.capacity_bytes);
  config.profiles.folder = raw.profiles;
  problems.Take("--scrub-rate", ParseSizeOrZero(raw.scrub_rate), &config.scrub_rate);
  problems.Take("--scrub-pause", ParseDurationWithin(raw.scrub_pause, absl::Hours(24)), &config.scrub_pause);
  if (absl::Status status = SetLogLevel(raw.log_level); !status.ok())
    problems.Add("--log-level", std::string(status.message()));
  if (!problems.status().ok()) return problems.status();
  return config;
}

void AddMemberFlags(CLI::App* app, RawFlags* raw) {
  app->add_option("--cluster", raw->cluster, "Static cluster file (JSON) that names the members");
  app->add_option("--node", raw->node, "Which node of the cluster file this is; with --etcd its name");
  app->add_option("--etcd", raw->etcd, "Endpoints of etcd that holds the members, host:port[,host:port...]");
  app->add_option("--etcd-user", raw->etcd_user, "User of etcd");
  app->add_option("--etcd-password-file", raw->etcd_password_file, "File that holds that user's password");
  app->add_option("--etcd-ca", raw->etcd_ca, "Certificate authority (PEM) of etcd; without it, plaintext");
  app->add_option("--etcd-cert", raw->etcd_cert, "This node's certificate (PEM) towards etcd");
  app->add_option("--etcd-key", raw->etcd_key, "Its key (PEM)");
  app->add_option("--cluster-name", raw->cluster_name, "Which of the clusters in etcd")->capture_default_str();
  app->add_option("--advertise", raw->advertise, "Address under which others reach the data port (default: --listen)");
  app->add_option("--weight", raw->weight, "Share of the keys, relative to others (default: the capacity in GiB)");
  app->add_option("--join-ramp", raw->join_ramp, "Time in which a new node takes over its share")
      ->capture_default_str();
  app->add_option("--join-window", raw->join_window, "Time after that in which readers also ask the previous owner")
      ->capture_default_str();
  app->add_option("--drain-deadline", raw->drain_deadline, "Time to hand blocks over in when the node leaves")
      ->capture_default_str();
  app->add_option("--drain-budget", raw->drain_budget, "Bytes to hand over then (default: half of the capacity)");
}

void AddTlsFlags(CLI::App* app, RawFlags* raw) {
  app->add_option("--tls-cert", raw->tls_cert,
                  "This node's certificate (PEM, with its chain): towards workers and peers");
  app->add_option("--tls-key", raw->tls_key, "Its key (PEM), which only its owner may read");
  app->add_option("--tls-ca", raw->tls_ca, "CAs (PEM) that every worker's and peer's certificate has to come from");
  app->add_option("--tls-server-name", raw->tls_server_name,
                  "For tests: the name that peers' certificates carry (default: the host of their address)");
  app->add_option("--tls-refresh", raw->tls_refresh, "How often these files are looked at")->capture_default_str();
  app->add_flag("--insecure", raw->insecure, "Plaintext on an address that other hosts reach");
}

void AddAccessFlags(CLI::App* app, RawFlags* raw) {
  app->add_option("--access", raw->access,
                  "Access file (JSON): tenants with their quotas, and who is what (default: all may do everything)");
  app->add_option("--tokens", raw->tokens, "Token file: names, and the SHA-256 of each one's bearer token");
  app->add_option("--peer-token", raw->peer_token,
                  "File with the token that this node shows to its peers (default: its certificate alone)");
  app->add_option("--access-refresh", raw->access_refresh, "How often these two are read again")->capture_default_str();
}

void AddDeviceFlags(CLI::App* app, RawFlags* raw) {
  app->add_option("--device-capacity", raw->device_capacity,
                  "Device tier, for example 16GiB of the GPU's memory (default: none)");
  app->add_option("--device", raw->device, "Which GPU, as CUDA counts")->capture_default_str();
  app->add_option("--device-staging", raw->device_staging, "Pinned host memory for copies to and from it")
      ->capture_default_str();
  app->add_option("--device-socket", raw->device_socket,
                  "Unix socket for workers on the same GPU, which read blocks where they are (default: none)");
  app->add_option("--nccl", raw->nccl,
                  "libnccl for transfers to other GPUs: a file, or libnccl.so.2 for the loader's (default: none)");
}

void AddLimitFlags(CLI::App* app, RawFlags* raw) {
  app->add_option("--max-lease", raw->max_lease, "Longest lease that a worker is granted")->capture_default_str();
  app->add_option("--max-gets", raw->max_gets, "Reads under way; more are refused with a hint")->capture_default_str();
  app->add_option("--max-queued", raw->max_queued, "Bytes that those have still to send")->capture_default_str();
  app->add_option("--max-puts", raw->max_puts, "Writes under way")->capture_default_str();
  app->add_option("--max-matches", raw->max_matches, "Matches at one moment")->capture_default_str();
  app->add_option("--max-explains", raw->max_explains, "Explains and Describes at one moment")->capture_default_str();
  app->add_option("--max-pinned", raw->max_pinned, "Part of the capacity that reads may pin")->capture_default_str();
  app->add_option("--max-reserved", raw->max_reserved, "Part of the capacity that writes may reserve")
      ->capture_default_str();
  app->add_option("--read-stall", raw->read_stall, "A read whose reader takes nothing for so long is ended")
      ->capture_default_str();
  app->add_option("--write-stall", raw->write_stall, "A write whose writer sends nothing for so long is ended")
      ->capture_default_str();
  app->add_option("--min-read-rate", raw->min_read_rate, "A read that takes less than this a second is ended; 0 = none")
      ->capture_default_str();
  app->add_option("--min-write-rate", raw->min_write_rate, "A write that brings less than this a second is; 0 = none")
      ->capture_default_str();
  app->add_option("--slow-call", raw->slow_call, "A call that takes so long is logged")->capture_default_str();
  app->add_option("--max-connections", raw->max_connections, "Connections to the data port; more are closed at once")
      ->capture_default_str();
}

}  // namespace

absl::StatusOr<ParsedFlags> ParseFlags(int argc, const char* const* argv) {
  RawFlags raw;
  CLI::App app("kvistd: one node of Kvist, a store for quantized KV blocks", "kvistd");
  app.allow_extras();
  AddMemberFlags(&app, &raw);
  AddLimitFlags(&app, &raw);
  AddDeviceFlags(&app, &raw);
  AddTlsFlags(&app, &raw);
  AddAccessFlags(&app, &raw);
  app.add_option("--listen", raw.listen,
                 "Data port, host:port; port 0 = chosen by the system (default: from the cluster file)");
  app.add_option("--capacity", raw.capacity, "Host tier, for example 8GiB (default: from the cluster file)");
  app.add_option("--http", raw.http, "Port of /metrics, /healthz and /readyz")->capture_default_str();
  app.add_option("--drain", raw.drain, "Time that open calls get to end in on SIGTERM")->capture_default_str();
  app.add_option(
      "--profiles", raw.profiles,
      "Folder of this node's own in which profiles of calibrated codecs outlive it (default: they go with it)");
  app.add_option("--profile-capacity", raw.profile_capacity, "Bytes of those profiles; more are refused")
      ->capture_default_str();
  app.add_option("--scrub-rate", raw.scrub_rate, "Bytes of resting blocks verified a second; 0 = none")
      ->capture_default_str();
  app.add_option("--scrub-pause", raw.scrub_pause, "Pause between two passes of that")->capture_default_str();
  app.add_option("--log-level", raw.log_level, "debug, info, warning or error")->capture_default_str();
  app.add_flag("--debug-pages", raw.debug_pages,
               "Pages for people on the HTTP port: /debug tells of members, namespaces, bounds, what is read most");
  app.add_flag("--enable-test-faults", raw.enable_test_faults, "For tests: POST /test/flip damages resting blocks");
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
