#include "tests/fuzz/hostile_cluster.h"

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <utility>

#include "services/cluster/records.h"
#include "services/transport/retry_hint.h"
#include "tests/fuzz/hostile_channel.h"

namespace kvist::fuzz {
namespace {

constexpr uint8_t kWell = 160;  // of 256 calls, so many are answered well

}  // namespace

bool SaysFault(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return true;
    default:
      return false;
  }
}

HostileCluster::HostileCluster(Input* answers, Runtime* runtime, const Options& options)
    : answers_(answers), runtime_(runtime), options_(options) {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of each string that is not UTF-8
  for (Holds& holds : holds_) {
    for (size_t block = 0; block < 32; ++block) {
      if ((options.held >> block & 1) != 0) holds[block] = options.held_form;
    }
  }
}

std::unique_ptr<Channel> HostileCluster::Connect(const std::string& address) {
  const absl::StatusOr<Address> parsed = ParseAddress(address);
  KVIST_HOLDS(parsed.ok() && parsed->port != 0, "a connection to ", address);
  return NewHostileChannel(this, parsed->port % kHostileNodes);
}

View HostileCluster::FirstView() const {
  View view{ViewNumber{1}, {}};
  for (size_t i = 0; i < options_.nodes; ++i) {
    Node node;
    node.id.value = absl::StrCat("n", i);
    node.address = Address{"h", static_cast<uint16_t>(kHostileNodes + i)};
    view.nodes.push_back(node);
  }
  return view;
}

HostileCluster::Turn HostileCluster::Answer(absl::Time deadline) {
  ++counts_.calls;
  const uint8_t how = answers_->Byte();
  if (how < kWell) return {};
  switch (how % 8) {
    case 0:
      return {Refuse()};
    case 1:
      return {absl::UnavailableError("connection refused")};
    case 2:
      return {Wait(absl::InfiniteDuration(), deadline)};
    case 3:
      return {Wait(absl::Milliseconds(10) * answers_->Byte(), deadline)};
    default:
      return {absl::OkStatus(), /*twisted=*/true};
  }
}

absl::Status HostileCluster::Wait(absl::Duration time, absl::Time deadline) {
  runtime_->SleepUntil(std::min(runtime_->Now() + time, deadline));
  return runtime_->Now() < deadline ? absl::OkStatus() : absl::DeadlineExceededError("deadline exceeded");
}

absl::Status HostileCluster::Refuse() {
  const uint8_t how = answers_->Byte();
  const int code = how == 255 ? static_cast<int>(answers_->Number(4)) : 1 + how % 16;
  absl::Status status(static_cast<absl::StatusCode>(code == 0 ? 2 : code), answers_->Text(how & 16 ? 9 : 0));
  if (SaysFault(status)) ++counts_.faults;
  if ((how & 32) != 0) return WithRetryHint(status, absl::Milliseconds(answers_->Byte()));
  if ((how & 64) == 0) return status;
  status.SetPayload(kRetryHintPayload, absl::Cord(absl::StrCat(static_cast<int64_t>(answers_->Number(8)))));
  return status;
}

// Often one that is believed.
v1::View HostileCluster::AnyView() {
  v1::View view = ViewToWire(FirstView());
  const uint8_t how = answers_->Byte();
  view.set_number((how & 1) != 0 ? answers_->Number(8) : 2 + how / 8);
  for (int i = how / 2 % 4; i > 0; --i) {
    v1::NodeRecord& node = *view.add_nodes();
    const uint8_t which = answers_->Byte();
    node.set_id(absl::StrCat("n", which % 8));
    node.set_address(absl::StrCat("h:", which / 8));  // h:0 is known to nobody
    node.set_state(static_cast<v1::NodeState>(answers_->Below(5)));
    node.set_weight((which & 1) != 0 ? 1 : static_cast<double>(answers_->Number(8)) / 1000);
    node.set_ramp(static_cast<double>(answers_->Byte()) / 250);
    node.set_incarnation(answers_->Byte() % 3);
    node.set_protocol(1 + (which == 255));
  }
  for (int i = answers_->Byte() % 4; i > 0 && view.nodes_size() > 0; --i) {
    view.mutable_nodes()->DeleteSubrange(static_cast<int>(answers_->Below(static_cast<uint64_t>(view.nodes_size()))),
                                         1);
  }
  return view;
}

}  // namespace kvist::fuzz
