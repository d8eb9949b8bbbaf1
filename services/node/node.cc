#include "services/node/node.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/cluster/static_file.h"
#include "services/node/cache_service.h"
#include "services/node/http_server.h"
#include "services/node/log.h"
#include "services/node/node_core.h"
#include "services/runtime/runtime.h"
#include "services/transport/grpc_library.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

constexpr int kMaxMessageBytes = 4 << 20;
constexpr size_t kGrpcMemoryBytes = size_t{512} << 20;  // receive buffers and streams; beyond it gRPC slows its peers

class RunningNode : public NodeServer {
 public:
  explicit RunningNode(const NodeConfig& config) : config_(config) {}
  ~RunningNode() override {
    ready_ = false;
    if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  absl::Status Start() {
    NodeCoreOptions options;
    options.id = config_.id;
    options.capacity_bytes = config_.capacity_bytes;
    options.max_lease = config_.max_lease;
    options.prefault = config_.prefault;
    if (absl::Status status = ReadView(&options); !status.ok()) return status;
    absl::StatusOr<std::unique_ptr<NodeCore>> core =
        NodeCore::Create(std::move(options), RealRuntime(), transport_.get(), /*membership=*/nullptr);
    if (!core.ok()) return core.status();
    core_ = *std::move(core);
    cache_ = std::make_unique<CacheService>(core_->handlers());
    cluster_ = std::make_unique<ClusterService>(core_->handlers());
    if (absl::Status status = StartHttp(); !status.ok()) return status;
    if (absl::Status status = StartGrpc(); !status.ok()) return status;
    if (absl::Status status = Publish(); !status.ok()) return status;
    core_->Start(data_address_, http_address_);
    ready_ = true;  // last: whoever sees it ready also finds its addresses
    return absl::OkStatus();
  }

  Address data_address() const override { return data_address_; }
  Address http_address() const override { return http_address_; }

  void Stop() override {
    ready_ = false;
    Log(LogLevel::kInfo, "draining", {{"drain", absl::FormatDuration(config_.drain)}});
    server_->Shutdown(absl::ToChronoTime(absl::Now() + config_.drain));
    Log(LogLevel::kInfo, "stopped");
  }

 private:
  // The view of the cluster file, if there is one.
  absl::Status ReadView(NodeCoreOptions* options) const {
    if (config_.cluster_file.empty()) return absl::OkStatus();
    absl::StatusOr<View> view = ReadClusterFile(config_.cluster_file);
    if (!view.ok()) return view.status();
    options->fixed_view = std::make_shared<const View>(*std::move(view));
    return absl::OkStatus();
  }

  absl::Status StartHttp() {
    absl::StatusOr<std::unique_ptr<HttpServer>> http = HttpServer::Start(
        config_.http.ToString(), [this] { return core_->metrics()->Expose(); }, [this] { return ready_.load(); });
    if (!http.ok()) return http.status();
    http_ = *std::move(http);
    absl::StatusOr<Address> bound = ParseAddress(http_->address());
    if (!bound.ok()) return bound.status();
    http_address_ = *bound;
    return absl::OkStatus();
  }

  absl::Status StartGrpc() {
    KeepGrpcAlive();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(config_.listen.ToString(), grpc::InsecureServerCredentials(), &port);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else two nodes could share a port unseen
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // a fixed window, as in transport/grpc_transport.cc
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    grpc::ResourceQuota quota("kvistd");
    quota.Resize(kGrpcMemoryBytes);
    builder.SetResourceQuota(quota);
    builder.RegisterService(cache_.get());
    builder.RegisterService(cluster_.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on data address ", config_.listen.ToString(),
          ": the port is taken or the address is not of this host; change it in the cluster file or with --listen"));
    }
    data_address_ = {config_.listen.host, static_cast<uint16_t>(port)};
    return absl::OkStatus();
  }

  absl::Status Publish() {
    Log(LogLevel::kInfo, "serving",
        {{"node", config_.id.value}, {"address", data_address_.ToString()}, {"http", http_address_.ToString()}});
    if (config_.cluster_file.empty()) return absl::OkStatus();
    const absl::Status published = PublishAddress(config_.cluster_file, config_.id, data_address_);
    return published.ok() ? PublishHttpAddress(config_.cluster_file, config_.id, http_address_) : published;
  }

  const NodeConfig config_;
  Address data_address_, http_address_;
  std::atomic<bool> ready_ = false;
  // In the order of construction; destroyed in reverse, so that whoever calls goes before what it calls.
  std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  std::unique_ptr<NodeCore> core_;
  std::unique_ptr<CacheService> cache_;
  std::unique_ptr<ClusterService> cluster_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NodeServer>> NodeServer::Start(const NodeConfig& config) {
  auto node = std::make_unique<RunningNode>(config);
  if (absl::Status status = node->Start(); !status.ok()) return status;
  return node;
}

}  // namespace kvist
