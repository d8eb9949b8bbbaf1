#include "tests/services/testing/local_cluster.h"

#include <utility>

namespace kvist::testing {
namespace {

// A LocalChannel that fails while its node is cut off, or when there is no such node.
class CuttableChannel final : public Channel {
 public:
  CuttableChannel(LocalCluster* cluster, std::string id, std::unique_ptr<Channel> channel)
      : cluster_(cluster), id_(std::move(id)), channel_(std::move(channel)) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Match(request, deadline);
  }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Erase(request, deadline);
  }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Release(request, deadline);
  }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->ServerInfo(deadline);
  }
  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Explain(request, deadline);
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Describe(request, deadline);
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Report(request, deadline);
  }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->GetView(deadline);
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Adopt(request, deadline);
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Drain(request, deadline);
  }
  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                    absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->PutProfile(name, file, deadline);
  }
  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->GetProfile(request, deadline);
  }
  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Get(request, deadline, sink);
  }
  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override {
    const LocalCluster::Call call(cluster_, id_);
    if (channel_ == nullptr || !call.let_through()) return Unreachable();
    return channel_->Put(reserve, deadline);
  }

 private:
  static absl::Status Unreachable() { return absl::UnavailableError("connection refused"); }

  LocalCluster* const cluster_;
  const std::string id_;
  const std::unique_ptr<Channel> channel_;
};

}  // namespace

LocalCluster::~LocalCluster() {
  std::unique_lock lock(mutex_);
  closing_ = true;
  call_ended_.wait(lock, [this] { return calls_ == 0; });
}

LocalCluster::Call::Call(LocalCluster* cluster, const std::string& id) : cluster_(cluster) {
  std::lock_guard lock(cluster_->mutex_);
  let_through_ = !cluster_->closing_ && cluster_->cut_.count(id) == 0;
  cluster_->calls_ += let_through_;
}

LocalCluster::Call::~Call() {
  if (!let_through_) return;
  std::lock_guard lock(cluster_->mutex_);
  --cluster_->calls_;
  cluster_->call_ended_.notify_all();
}

std::unique_ptr<Channel> LocalCluster::Connect(const std::string& address) {
  const std::string id = address.substr(0, address.find(':'));
  const auto core = cores_.find(id);
  return std::make_unique<CuttableChannel>(
      this, id, core == cores_.end() ? nullptr : NewLocalChannel(core->second->handlers(), RealRuntime()));
}

}  // namespace kvist::testing
