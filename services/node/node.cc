#include "services/node/node.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <netdb.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/block_format.h"
#include "services/cluster/membership.h"
#include "services/cluster/node_claim.h"
#include "services/cluster/static_file.h"
#include "services/node/cache_service.h"
#include "services/node/data_port.h"
#include "services/node/debug_pages.h"
#include "services/node/device_services.h"
#include "services/node/http_server.h"
#include "services/node/log.h"
#include "services/node/node_core.h"
#include "services/node/process_figures.h"
#include "services/node/replication.h"
#include "services/node/test_faults.h"
#include "services/runtime/runtime.h"
#include "services/transport/bearer_token.h"
#include "services/transport/grpc_library.h"
#include "services/transport/tls.h"
#include "services/transport/transport.h"
#include "services/version.h"

namespace kvist {
namespace {

constexpr int kMaxMessageBytes = 4 << 20;
constexpr size_t kGrpcMemoryBytes = size_t{512} << 20;  // receive buffers and streams; beyond it gRPC slows its peers
constexpr int kKeepaliveMs = 10'000;
constexpr int kHandshakeMs = 10'000;  // a connection that has not said what it wants by then is closed
constexpr int kMaxStreams = 1024, kMaxMetadataBytes = 8 << 10;  // of one connection, and of one call
constexpr absl::Duration kLeave = absl::Seconds(5);             // to leave the cluster in, after the hand-over

NodeCoreOptions CoreOptions(const NodeConfig& config) {
  NodeCoreOptions options;
  options.id = config.id;
  options.capacity_bytes = config.capacity_bytes;
  options.weight = config.weight;
  options.max_lease = config.max_lease;
  options.prefault = config.prefault;
  options.admission = config.admission;
  options.slow_call = config.slow_call;
  options.join_ramp = config.join_ramp;
  options.join_window = config.join_window;
  options.drain_deadline = config.drain_deadline;
  options.drain_budget_bytes = config.drain_budget_bytes;
  options.scrub_rate = config.scrub_rate;
  options.scrub_pause = config.scrub_pause;
  options.profiles = config.profiles;
  options.make_hooks = [capacity_bytes = config.capacity_bytes](const NodeParts& parts) {
    return ReplicationHooks(parts, capacity_bytes);
  };
  return options;
}

absl::StatusOr<std::unique_ptr<DeviceTier>> MakeDeviceTier(const DeviceConfig& config, const DeviceOpener& open,
                                                           const TierRules& rules) {
  if (!open) return absl::FailedPreconditionError("this kvistd opens no GPU");
  absl::StatusOr<std::unique_ptr<Device>> device = open(config.ordinal);
  if (!device.ok()) return device.status();
  const DeviceDescription description = (*device)->description();
  Log(LogLevel::kInfo, "GPU opened",
      {{"name", description.name},
       {"ordinal", absl::StrCat(description.ordinal)},
       {"memory_bytes", absl::StrCat(description.memory_bytes)}});
  DeviceTierOptions options;
  static_cast<TierRules&>(options) = rules;
  options.device = *std::move(device);
  options.capacity_bytes = config.capacity_bytes;
  options.staging_bytes = config.staging_bytes;
  return DeviceTier::Create(options);
}

// Null for a node by itself.
absl::StatusOr<std::unique_ptr<Membership>> OpenMembership(const NodeConfig& config) {
  if (!config.etcd.endpoints.empty()) return NewEtcdMembership(config.etcd, RealRuntime());
  if (!config.cluster_file.empty()) return NewStaticMembership(config.cluster_file, RealRuntime());
  return nullptr;
}

// What others are told to connect to.
absl::StatusOr<Address> AdvertisedAddress(const NodeConfig& config, const Address& bound) {
  Address address = config.advertise.host.empty() ? bound : config.advertise;
  if (address.port == 0) address.port = bound.port;
  std::string host = address.host;
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, nullptr, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the address ", address.ToString(),
                                                   " that others would be told resolves to nothing here (",
                                                   gai_strerror(error), "): change --advertise"));
  }
  freeaddrinfo(found);
  return address;
}

// Null for plaintext.
absl::StatusOr<std::shared_ptr<TlsIdentity>> OpenTls(const NodeConfig& config) {
  if (!config.tls.any()) return nullptr;
  return TlsIdentity::Load(config.tls, [](const absl::Status& status) {
    if (status.ok()) return Log(LogLevel::kInfo, "TLS files reloaded");
    Log(LogLevel::kError, "TLS files not reloaded, the earlier ones stay in force",
        {{"error", std::string(status.message())}});
  });
}

// Null if there is no access file.
absl::StatusOr<std::shared_ptr<Access>> OpenAccess(const NodeConfig& config) {
  if (config.access.access_file.empty()) return nullptr;
  return Access::Load(config.access, [](const absl::Status& status) {
    if (status.ok()) return Log(LogLevel::kInfo, "access files reloaded");
    Log(LogLevel::kError, "access files not reloaded, the earlier ones stay in force",
        {{"error", std::string(status.message())}});
  });
}

void AddAccessFigures(const Access* access, Metrics* metrics) {
  metrics->AddFigure(Metrics::Kind::kGauge, "kvist_access_reload_failed",
                     "1 while the access files that stand there are wrong, and earlier ones are in force.", {},
                     [access] { return access->figures().last.ok() ? 0.0 : 1.0; });
  constexpr char kReloads[] = "Sets of access files after the first, by result.";
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_access_reloads_total", kReloads, {{"result", "ok"}},
                     [access] { return static_cast<double>(access->figures().reloads); });
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_access_reloads_total", kReloads, {{"result", "failed"}},
                     [access] { return static_cast<double>(access->figures().failed_reloads); });
}

void AddTlsFigures(const TlsIdentity* tls, Metrics* metrics) {
  metrics->AddFigure(Metrics::Kind::kGauge, "kvist_tls_certificate_expiry_seconds",
                     "When the certificate in force ends, in Unix time.", {},
                     [tls] { return absl::ToUnixMillis(tls->figures().expiry) / 1e3; });
  metrics->AddFigure(Metrics::Kind::kGauge, "kvist_tls_reload_failed",
                     "1 while the TLS files are bad and earlier ones are in force.", {},
                     [tls] { return tls->figures().last.ok() ? 0 : 1; });
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_tls_reloads_total",
                     "Sets of TLS files taken after the first, by result.", {{"result", "ok"}},
                     [tls] { return static_cast<double>(tls->figures().reloads); });
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_tls_reloads_total",
                     "Sets of TLS files taken after the first, by result.", {{"result", "failed"}},
                     [tls] { return static_cast<double>(tls->figures().failed_reloads); });
}

class RunningNode : public NodeServer {
 public:
  RunningNode(const NodeConfig& config, const DeviceOpener& open_device) : config_(config), open_device_(open_device) {}
  ~RunningNode() override {
    if (core_ != nullptr) core_->Stop();
    if (data_port_ != nullptr) data_port_->Close();
    if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  absl::Status Start() {
    if (!config_.cluster_file.empty()) {
      absl::StatusOr<std::unique_ptr<NodeClaim>> claim = NodeClaim::Take(config_.cluster_file, config_.id);
      if (!claim.ok()) return claim.status();
      claim_ = *std::move(claim);
    }
    absl::StatusOr<std::unique_ptr<Membership>> membership = OpenMembership(config_);
    if (!membership.ok()) return membership.status();
    membership_ = *std::move(membership);
    absl::StatusOr<std::shared_ptr<TlsIdentity>> tls = OpenTls(config_);
    if (!tls.ok()) return tls.status();
    tls_ = *std::move(tls);
    absl::StatusOr<std::shared_ptr<Access>> access = OpenAccess(config_);
    if (!access.ok()) return access.status();
    access_ = *std::move(access);
    if (config_.insecure) {
      Log(LogLevel::kWarning,
          "--insecure: the data port is plaintext, and whoever reaches it can read and write blocks");
    }
    std::shared_ptr<BearerToken> peer_token;
    if (!config_.peer_token_file.empty()) {
      absl::StatusOr<std::shared_ptr<BearerToken>> loaded = BearerToken::Load(config_.peer_token_file);
      if (!loaded.ok()) return loaded.status();
      peer_token = *std::move(loaded);
    }
    transport_ = NewGrpcTransport(tls_, std::move(peer_token));
    if (absl::Status status = CreateCore(); !status.ok()) return status;
    AddProcessFigures(core_->metrics());
    if (tls_ != nullptr) AddTlsFigures(tls_.get(), core_->metrics());
    if (access_ != nullptr) AddAccessFigures(access_.get(), core_->metrics());
    cache_ = std::make_unique<CacheService>(core_->handlers(), access_);
    cluster_ = std::make_unique<ClusterService>(core_->handlers(), access_);
    if (absl::Status status = OpenDataPort(); !status.ok()) return status;
    if (absl::Status status = StartHttp(); !status.ok()) return status;
    if (absl::Status status = StartGrpc(); !status.ok()) return status;
    if (absl::Status status = Publish(); !status.ok()) return status;
    absl::StatusOr<Address> advertised = AdvertisedAddress(config_, data_address_);
    if (!advertised.ok()) return advertised.status();
    core_->Start(*advertised, http_address_);  // last: whoever sees it ready also finds its addresses
    return absl::OkStatus();
  }

  Address data_address() const override { return data_address_; }
  Address http_address() const override { return http_address_; }
  void OnLeft(std::function<void()> act) override { core_->OnLeft(std::move(act)); }

  void Stop() override {
    Log(LogLevel::kInfo, "draining", {{"drain", absl::FormatDuration(config_.drain)}});
    core_->DrainAndLeave(absl::Now() + config_.drain_deadline + kLeave);
    data_port_->Close();
    server_->Shutdown(absl::ToChronoTime(absl::Now() + config_.drain));
    core_->Stop();
    Log(LogLevel::kInfo, "stopped");
  }

 private:
  absl::Status CreateCore() {
    NodeCoreOptions options = CoreOptions(config_);
    options.access = access_;
    if (config_.device.capacity_bytes > 0) {
      options.make_device_tier = [this](const TierRules& rules) {
        return MakeDeviceTier(config_.device, open_device_, rules);
      };
      options.device_info = [this]() -> std::optional<v1::DeviceInfo> {
        if (device_ == nullptr) return std::nullopt;
        return device_->info();
      };
    }
    absl::StatusOr<std::unique_ptr<NodeCore>> core =
        NodeCore::Create(std::move(options), RealRuntime(), transport_.get(), membership_.get());
    if (!core.ok()) return core.status();
    core_ = *std::move(core);
    if (core_->store()->device() == nullptr) return absl::OkStatus();
    absl::StatusOr<std::unique_ptr<DeviceServices>> device = DeviceServices::Start(config_.device, core_->store());
    if (!device.ok()) return device.status();
    device_ = *std::move(device);
    device_->AddFigures(core_->metrics());
    return absl::OkStatus();
  }

  // What /readyz adds, though the node serves.
  std::string Trouble() const {
    std::string trouble = core_->status().trouble;
    const auto add = [&trouble](absl::string_view more) {
      if (!more.empty()) absl::StrAppend(&trouble, trouble.empty() ? "" : "; ", more);
    };
    if (device_ != nullptr) add(device_->trouble());
    if (tls_ != nullptr) add(tls_->figures().last.message());
    if (access_ != nullptr) {
      const AccessFigures access = access_->figures();
      add(access.last.message());
      add(access.remark);
    }
    return trouble;
  }

  // No file names and no addresses of other services: HTTP has no password.
  DebugTable BuildTable() const {
    DebugTable table{"Build and process", {"what", "value"}, {}};
    table.rows = {{"version", kVersion},
                  {"block format", absl::StrCat(kFormatVersion)},
                  {"node", config_.id.value},
                  {"started", absl::FormatTime(absl::RFC3339_sec, started_, absl::UTCTimeZone())},
                  {"members from", !config_.etcd.endpoints.empty() ? "etcd"
                                   : !config_.cluster_file.empty() ? "a file"
                                                                   : "-"},
                  {"data port", tls_ != nullptr    ? "mutual TLS"
                                : config_.insecure ? "plaintext, --insecure"
                                                   : "plaintext"},
                  {"connections to it", absl::StrCat(data_port_->connections(), " of at most ", data_port_->most())},
                  {"device tier", device_ != nullptr ? "yes" : "no"}};
    return table;
  }

  absl::Status StartHttp() {
    HttpOptions options;
    options.address = config_.http.ToString();
    options.metrics = [this] { return core_->metrics()->Expose(); };
    options.why_not_ready = [this] { return core_->status().why_not; };
    options.trouble = [this] { return Trouble(); };
    if (config_.debug_pages) {
      options.debug = [this](const std::string& page) { return core_->debug_pages()->Render(page); };
    }
    if (config_.enable_test_faults) {
      Log(LogLevel::kWarning, "test faults are enabled: whoever reaches the HTTP port can damage blocks");
      options.flip = [this](const HttpOptions::Parameter& parameter) {
        return FlipBits(&core_->store()->host(), parameter);
      };
    }
    absl::StatusOr<std::unique_ptr<HttpServer>> http = HttpServer::Start(std::move(options));
    if (!http.ok()) return http.status();
    http_ = *std::move(http);
    absl::StatusOr<Address> bound = ParseAddress(http_->address());
    if (!bound.ok()) return bound.status();
    http_address_ = *bound;
    return absl::OkStatus();
  }

  // Takes the port; StartGrpc serves on it.
  absl::Status OpenDataPort() {
    absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Bind(config_.listen);
    if (!listener.ok()) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on data address ", config_.listen.ToString(), " (", listener.status().message(),
          "): the port is taken or the address is not of this host; change it in the cluster file or with --listen"));
    }
    const absl::StatusOr<size_t> connections = ConnectionsWithinFileLimit(config_.max_connections);
    if (!connections.ok()) return connections.status();
    if (*connections < config_.max_connections) {
      Log(LogLevel::kWarning, "fewer connections than --max-connections: the limit of open files allows no more",
          {{"connections", absl::StrCat(*connections)}});
    }
    data_address_ = (*listener)->address();
    data_port_ = std::make_unique<DataPort>(*std::move(listener), *connections);
    core_->debug_pages()->Add("build", [this] { return BuildTable(); });
    core_->metrics()->AddFigure(Metrics::Kind::kGauge, "kvist_connections", "Open connections to the data port.", {},
                                [this] { return static_cast<double>(data_port_->connections()); });
    core_->metrics()->AddFigure(Metrics::Kind::kCounter, "kvist_refused_connections_total",
                                "Connections to the data port that were closed at once, for there were too many.", {},
                                [this] { return static_cast<double>(data_port_->refused()); });
    return absl::OkStatus();
  }

  absl::Status StartGrpc() {
    KeepGrpcAlive();
    grpc::ServerBuilder builder;
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor =
        builder.experimental().AddExternalConnectionAcceptor(
            grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
            tls_ != nullptr ? tls_->ForServer(Certificates()) : grpc::InsecureServerCredentials());
    SetLimits(builder);
    builder.RegisterService(cache_.get());
    builder.RegisterService(cluster_.get());
    if (device_ != nullptr && device_->transfer_service() != nullptr) {
      builder.RegisterService(device_->transfer_service());
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC refuses to serve");
    data_port_->Start(std::move(acceptor));
    return absl::OkStatus();
  }

  static void SetLimits(grpc::ServerBuilder& builder) {
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreams);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // a fixed window, as in transport/grpc_transport.cc
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
    // A peer that is stopped or gone is noticed, and its streams with what they pin are ended.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    grpc::ResourceQuota quota("kvistd");
    quota.Resize(kGrpcMemoryBytes);
    builder.SetResourceQuota(quota);
  }

  // Whoever shows a token needs no certificate.
  ClientCertificates Certificates() const {
    return access_ != nullptr && access_->has_tokens() ? ClientCertificates::kOptional : ClientCertificates::kRequired;
  }

  absl::Status Publish() {
    Log(LogLevel::kInfo, "serving",
        {{"node", config_.id.value}, {"address", data_address_.ToString()}, {"http", http_address_.ToString()}});
    if (config_.cluster_file.empty()) return absl::OkStatus();
    const absl::Status published = PublishAddress(config_.cluster_file, config_.id, data_address_);
    return published.ok() ? PublishHttpAddress(config_.cluster_file, config_.id, http_address_) : published;
  }

  const NodeConfig config_;
  const DeviceOpener open_device_;
  const absl::Time started_ = absl::Now();
  Address data_address_, http_address_;
  // In the order of construction; destroyed in reverse, so that whoever calls goes before what it calls.
  std::unique_ptr<NodeClaim> claim_;
  std::shared_ptr<TlsIdentity> tls_;  // null for plaintext
  std::shared_ptr<Access> access_;    // null: who comes may do everything
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Membership> membership_;
  std::unique_ptr<NodeCore> core_;
  std::unique_ptr<DeviceServices> device_;  // null without a device tier
  std::unique_ptr<CacheService> cache_;
  std::unique_ptr<ClusterService> cluster_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<DataPort> data_port_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NodeServer>> NodeServer::Start(const NodeConfig& config,
                                                              const DeviceOpener& open_device) {
  auto node = std::make_unique<RunningNode>(config, open_device);
  if (absl::Status status = node->Start(); !status.ok()) return status;
  return node;
}

}  // namespace kvist
