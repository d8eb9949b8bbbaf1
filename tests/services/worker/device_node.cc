#include "tests/services/worker/device_node.h"

#include <stdlib.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/local_channel.h"
#include "services/runtime/runtime.h"
#include "tests/services/transport/nccl/direct_control.h"

namespace kvist::testing {
namespace {

constexpr uint64_t kCapacity = uint64_t{8} << 20;

// LocalChannel, to a node that may be down, and that says how its device is reached.
class DeviceChannel final : public Channel {
 public:
  explicit DeviceChannel(DeviceNode* node)
      : node_(node), channel_(NewLocalChannel(node->handlers.get(), RealRuntime())) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Match(request, deadline); });
  }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Erase(request, deadline); });
  }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Release(request, deadline); });
  }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    ++node_->infos_asked;
    absl::StatusOr<v1::ServerInfoResponse> response = Up([&] { return channel_->ServerInfo(deadline); });
    if (response.ok() && node_->reach != Reach::kHostOnly) *response->mutable_device() = node_->info();
    return response;
  }
  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Explain(request, deadline); });
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Describe(request, deadline); });
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Report(request, deadline); });
  }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    return Up([&] { return channel_->GetView(deadline); });
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Adopt(request, deadline); });
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->Drain(request, deadline); });
  }
  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                    absl::Time deadline) override {
    return Up([&] { return channel_->PutProfile(name, file, deadline); });
  }
  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) override {
    return Up([&] { return channel_->GetProfile(request, deadline); });
  }
  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    EXPECT_TRUE(Eventually([&] { return !node_->hold_gets; }));
    return Up([&] { return channel_->Get(request, deadline, sink); });
  }
  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override {
    return Up([&] { return channel_->Put(reserve, deadline); });
  }

 private:
  template <typename Call>
  auto Up(Call call) -> decltype(call()) {
    if (node_->down) return absl::UnavailableError("connection refused");
    return call();
  }

  DeviceNode* const node_;
  const std::unique_ptr<Channel> channel_;
};

// Of its own, with a short name: test processes may have one id each in namespaces of their own.
std::string NewFolder() {
  std::string folder = (std::filesystem::temp_directory_path() / "kvist-XXXXXX").string();
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  return folder;
}

std::unique_ptr<TieredStore> NewStore(const std::shared_ptr<EmulatedDevice>& device) {
  HostTierOptions host;
  host.capacity_bytes = kCapacity;
  host.clock = RealRuntime()->clock();
  std::unique_ptr<DeviceTier> tier;
  if (device != nullptr) {
    DeviceTierOptions options;
    static_cast<TierRules&>(options) = host;
    options.capacity_bytes = kCapacity;
    options.staging_bytes = uint64_t{1} << 20;
    options.copy_deadline = kTestDeadline;
    options.device = device;
    tier = *DeviceTier::Create(options);
  }
  return std::make_unique<TieredStore>(*HostTier::Create(host), std::move(tier), MoveRules());
}

}  // namespace

DeviceNode::DeviceNode(Reach reach_in, int number)
    : reach(reach_in),
      end(TestLimits(), reach == Reach::kIpc ? 0 : 1 + number),
      store(NewStore(reach == Reach::kHostOnly ? nullptr : end.device)),
      metrics(std::make_unique<Metrics>(absl::StrCat("n", number), "0")),
      folder_(NewFolder()) {
  CacheHandlersOptions options;
  options.store = store.get();
  options.metrics = metrics.get();
  options.runtime = RealRuntime();
  options.identity = {"0", absl::StrCat("n", number)};
  options.capacity_bytes = kCapacity;
  handlers = std::make_unique<CacheHandlers>(std::move(options));
  if (reach == Reach::kIpc) StartIpc();
  if (reach == Reach::kNccl) sessions.emplace(end.communicators.get(), store.get(), HostId(), TransferLimits());
}

DeviceNode::~DeviceNode() {
  StopIpc();
  std::filesystem::remove_all(folder_);
}

void DeviceNode::StartIpc(absl::Duration pinned_for, DeviceBlocks* of, const DeviceMemory* memory) {
  ipc.reset();
  DeviceIpcOptions options;
  options.path = socket_ = folder_ + "/socket";
  options.pinned_for = pinned_for;
  ipc = *DeviceIpcServer::Start(options, end.device.get(), memory == nullptr ? &store->device()->memory() : memory,
                                of == nullptr ? store.get() : of);
}

bool DeviceNode::Has(const Key& key) { return store->Match({key}, absl::ZeroDuration())->hits == 1; }

std::vector<uint8_t> DeviceNode::Bytes(const Key& key) {
  const absl::StatusOr<Lookup> found = store->Get(key);
  std::vector<uint8_t> bytes;
  for (const absl::Span<const uint8_t> piece : found->block->pieces()) {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  }
  return bytes;
}

void DeviceNode::Promote(const Key& key) {
  EXPECT_TRUE(Eventually([&] { return store->GetOnDevice(key)->tier == Tier::kDevice; }));
}

DeviceExtent DeviceNode::OnDevice(const Key& key) { return store->GetOnDevice(key)->pin->extents()[0]; }

v1::DeviceInfo DeviceNode::info() const {
  v1::DeviceInfo device;
  const auto& uuid = end.device->description().uuid;
  device.set_uuid(std::string(uuid.begin(), uuid.end()));
  if (reach == Reach::kIpc) device.set_ipc_socket(socket_);
  if (reach == Reach::kNccl) device.set_nccl_version(end.communicators->library().version);
  return device;
}

DeviceCluster::DeviceCluster(const std::vector<Reach>& nodes) {
  for (const Reach reach : nodes)
    nodes_.push_back(std::make_unique<DeviceNode>(reach, static_cast<int>(nodes_.size())));
}

std::unique_ptr<Channel> DeviceCluster::Connect(const std::string& address) {
  return std::make_unique<DeviceChannel>(&At(address));
}

std::unique_ptr<TransferControl> DeviceCluster::ConnectControl(const std::string& address) {
  return std::make_unique<DirectControl>(&*At(address).sessions);
}

View DeviceCluster::view() const {
  View view{ViewNumber{1}, {}};
  for (size_t i = 0; i < nodes_.size(); ++i) {
    Node node;
    node.id.value = absl::StrCat("n", i);
    node.address = Address{node.id.value, 1};
    node.capacity_bytes = kCapacity;
    view.nodes.push_back(node);
  }
  return view;
}

}  // namespace kvist::testing
