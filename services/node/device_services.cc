#include "services/node/device_services.h"

#include <functional>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/log.h"
#include "services/transport/device_ipc/device_ipc_server.h"
#include "services/transport/nccl/communicators.h"
#include "services/transport/nccl/nccl_library.h"
#include "services/transport/nccl/transfer_service.h"
#include "services/transport/nccl/transfer_sessions.h"

namespace kvist {
namespace {

using Kind = Metrics::Kind;

class RunningDeviceServices final : public DeviceServices {
 public:
  RunningDeviceServices(const DeviceConfig& config, TieredStore* store)
      : config_(config), store_(store), device_(&store->device()->device()) {}

  absl::Status Start() {
    if (absl::Status status = StartIpc(); !status.ok()) return status;
    StartNccl();
    return absl::OkStatus();
  }

  grpc::Service* transfer_service() override { return service_.get(); }
  const std::string& trouble() const override { return trouble_; }

  std::optional<v1::DeviceInfo> info() const override {
    if (store_->device_state() != DeviceState::kReady) return std::nullopt;
    v1::DeviceInfo info;
    const auto& uuid = device_->description().uuid;
    info.set_uuid(uuid.data(), uuid.size());
    if (ipc_ != nullptr) info.set_ipc_socket(config_.ipc_socket);
    if (sessions_ != nullptr) info.set_nccl_version(static_cast<uint32_t>(communicators_->library().version));
    return info;
  }

  void AddFigures(Metrics* metrics) override {
    if (ipc_ != nullptr) AddIpcFigures(metrics);
    if (sessions_ != nullptr) AddNcclFigures(metrics);
  }

 private:
  absl::Status StartIpc() {
    if (config_.ipc_socket.empty()) return absl::OkStatus();
    DeviceIpcOptions options;
    options.path = config_.ipc_socket;
    auto ipc = DeviceIpcServer::Start(options, device_, &store_->device()->memory(), store_);
    if (ipc.ok()) {
      ipc_ = *std::move(ipc);
    } else if (absl::IsFailedPrecondition(ipc.status())) {
      DoWithout("CUDA IPC", ipc.status());
    } else {
      return absl::Status(ipc.status().code(), absl::StrCat("--device-socket: ", ipc.status().message()));
    }
    return absl::OkStatus();
  }

  void StartNccl() {
    if (config_.nccl_library.empty()) return;
    auto library = NcclLibrary::Load(config_.nccl_library);
    if (!library.ok()) return DoWithout("NCCL", library.status());
    if (device_->description().mig) {
      return DoWithout("NCCL", absl::FailedPreconditionError("it does not serve a slice of a GPU (MIG)"));
    }
    Log(LogLevel::kInfo, "NCCL is loaded",
        {{"version", NcclVersionName((*library)->version)}, {"library", config_.nccl_library}});
    communicators_ = std::make_unique<Communicators>(*std::move(library), device_, NcclLimits());
    sessions_ = std::make_unique<TransferSessions>(communicators_.get(), store_, HostId(), TransferLimits());
    service_ = NewTransferService(sessions_.get());
  }

  void DoWithout(const char* way, const absl::Status& why) {
    Log(LogLevel::kWarning, "serving without a way to device memory",
        {{"way", way}, {"why", std::string(why.message())}});
    absl::StrAppend(&trouble_, trouble_.empty() ? "" : "; ", "no ", way, ": ", why.message());
  }

  void AddIpcFigures(Metrics* metrics) {
    const auto add = [&](Kind kind, const char* name, const char* help, uint64_t DeviceIpcCounters::*figure) {
      metrics->AddFigure(kind, name, help, {}, [this, figure] { return ipc_->counters().*figure; });
    };
    add(Kind::kGauge, "kvist_device_ipc_workers", "Workers that have mapped the device tier.",
        &DeviceIpcCounters::workers);
    add(Kind::kGauge, "kvist_device_ipc_pins", "Blocks that they pin.", &DeviceIpcCounters::pins);
    add(Kind::kCounter, "kvist_device_ipc_blocks_total", "Blocks that they were given.", &DeviceIpcCounters::blocks);
    add(Kind::kCounter, "kvist_device_ipc_expired_pins_total", "Pins that were taken back at their deadline.",
        &DeviceIpcCounters::expired_pins);
    add(Kind::kCounter, "kvist_device_ipc_refused_workers_total", "Workers that were turned away.",
        &DeviceIpcCounters::refused);
  }

  void AddNcclFigures(Metrics* metrics) {
    const auto add = [&](Kind kind, const char* name, const char* help, std::map<std::string, std::string> labels,
                         std::function<double(const TransferSessions::Counts&, const Communicators::Counts&)> read) {
      metrics->AddFigure(kind, name, help, std::move(labels), [this, read = std::move(read)] {
        return read(sessions_->counts(), communicators_->counts());
      });
    };
    constexpr char kTransfers[] =
        "Transfers over NCCL, by how they ended; expired: the worker did not start it in time.";
    add(Kind::kCounter, "kvist_nccl_transfers_total", kTransfers, {{"result", "sent"}},
        [](const auto& transfers, const auto&) { return transfers.sent; });
    add(Kind::kCounter, "kvist_nccl_transfers_total", kTransfers, {{"result", "failed"}},
        [](const auto& transfers, const auto&) { return transfers.failed; });
    add(Kind::kCounter, "kvist_nccl_transfers_total", kTransfers, {{"result", "expired"}},
        [](const auto& transfers, const auto&) { return transfers.expired; });
    add(Kind::kCounter, "kvist_nccl_sent_bytes_total", "Block bytes sent by those.", {},
        [](const auto& transfers, const auto&) { return transfers.sent_bytes; });
    add(Kind::kGauge, "kvist_nccl_offered_bytes", "Block bytes pinned for transfers that are not started.", {},
        [](const auto& transfers, const auto&) { return transfers.offered_bytes; });
    add(Kind::kCounter, "kvist_nccl_refused_versions_total", "Workers turned away for another version of NCCL.", {},
        [](const auto& transfers, const auto&) { return transfers.refused_versions; });
    add(Kind::kGauge, "kvist_nccl_communicators", "Communicators that are open.", {},
        [](const auto&, const auto& communicators) { return communicators.live; });
    constexpr char kEnds[] = "Communicators that have ended, by how.";
    add(Kind::kCounter, "kvist_nccl_ended_communicators_total", kEnds, {{"result", "closed"}},
        [](const auto&, const auto& communicators) { return communicators.closed; });
    add(Kind::kCounter, "kvist_nccl_ended_communicators_total", kEnds, {{"result", "broken"}},
        [](const auto&, const auto& communicators) { return communicators.broken; });
    add(Kind::kGauge, "kvist_nccl_stuck_threads", "Threads that are stuck inside NCCL.", {},
        [](const auto&, const auto& communicators) { return communicators.left_behind; });
  }

  const DeviceConfig config_;
  TieredStore* const store_;
  Device* const device_;
  std::string trouble_;
  // Destroyed in reverse: whoever calls goes before what it calls.
  std::unique_ptr<DeviceIpcServer> ipc_;
  std::unique_ptr<Communicators> communicators_;
  std::unique_ptr<TransferSessions> sessions_;
  std::unique_ptr<grpc::Service> service_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceServices>> DeviceServices::Start(const DeviceConfig& config, TieredStore* store) {
  auto services = std::make_unique<RunningDeviceServices>(config, store);
  if (absl::Status status = services->Start(); !status.ok()) return status;
  return services;
}

}  // namespace kvist
