#include "tests/simulation/sim_node.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cluster/etcd_membership.h"
#include "services/node/local_channel.h"
#include "services/node/replication.h"

namespace kvist::simulation {

std::string SimNode::address() const { return absl::StrCat(host_->name(), ":1"); }

void SimNode::Start() {
  ++life_;
  process_ = network_->NewProcess(host_);
  EtcdOptions etcd;
  etcd.endpoints = {"etcd:2379"};
  membership_ = NewMembershipOver(etcd_->NewClient(process_, etcd.call_deadline), etcd, host_);
  NodeCoreOptions options;
  options.id.value = host_->name();
  options.capacity_bytes = options_.capacity_bytes;
  options.prefault = false;
  options.weight = 1;
  options.join_ramp = absl::Seconds(5);
  options.join_window = absl::Seconds(5);
  options.drain_deadline = absl::Seconds(5);
  if (options_.tight) {
    options.admission.gets = 1;
    options.admission.puts = 1;
    options.admission.matches = 1;
    options.admission.read_stall = absl::Seconds(2);
  }
  options.make_hooks = [capacity = options_.capacity_bytes](const NodeParts& parts) {
    return ReplicationHooks(parts, capacity);
  };
  auto core = NodeCore::Create(std::move(options), host_, process_->transport(), membership_.get());
  if (!core.ok()) host_->scheduler()->Fail(core.status().ToString());
  core_ = *std::move(core);
  channel_ = NewLocalChannel(core_->handlers(), host_);
  process_->Listen(address(), channel_.get());
  core_->Start({host_->name(), 1}, {host_->name(), 2});
}

void SimNode::Crash() {
  if (!up()) return;
  process_->Kill();
  core_->Stop();
  process_->Close();
  core_.reset();
  channel_.reset();
  membership_.reset();
}

void SimNode::Drain() {
  v1::DrainRequest request;
  request.set_start(true);
  core_->handlers()->Drain(Caller::Anyone(), request).IgnoreError();  // a node that is no member yet refuses
}

}  // namespace kvist::simulation
