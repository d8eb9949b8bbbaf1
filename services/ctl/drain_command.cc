// drain: tells one node to hand over its hottest blocks and leave, and follows it until it has.
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/byte_size.h"
#include "services/ctl/commands.h"
#include "services/ctl/open_client.h"
#include "services/ctl/report.h"
#include "services/runtime/runtime.h"
#include "services/worker/json_text.h"

namespace kvist {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::Duration kPoll = absl::Milliseconds(500);
constexpr absl::Duration kSlack = absl::Seconds(15);  // after the hand-over: to leave, and for the last answer

std::string PhaseName(v1::DrainResponse::Phase phase) {
  switch (phase) {
    case v1::DrainResponse::PHASE_HANDING_OVER:
      return "handing_over";
    case v1::DrainResponse::PHASE_LEFT:
      return "left";
    default:
      return "not_draining";
  }
}

Json ProgressJson(const std::string& node, const v1::DrainResponse& progress) {
  return {{"node", node},
          {"phase", PhaseName(progress.phase())},
          {"blocks", progress.blocks()},
          {"bytes", progress.bytes()},
          {"sent_blocks", progress.sent_blocks()},
          {"sent_bytes", progress.sent_bytes()},
          {"failed_blocks", progress.failed_blocks()},
          {"left_ms", progress.left_ms()}};
}

void PrintProgress(const std::string& node, const v1::DrainResponse& progress, bool json, std::ostream& out) {
  if (json) {
    out << JsonText(ProgressJson(node, progress)) << std::endl;  // one line each, at once: it is followed live
    return;
  }
  out << node << ": " << PhaseName(progress.phase()) << ", " << progress.sent_blocks() << " of " << progress.blocks()
      << " blocks (" << FormatByteSize(progress.sent_bytes()) << " of " << FormatByteSize(progress.bytes()) << ")"
      << (progress.failed_blocks() > 0 ? absl::StrCat(", ", progress.failed_blocks(), " failed") : "") << std::endl;
}

absl::StatusOr<Node> FindNode(const View& view, const std::string& id) {
  if (const Node* node = view.Find(NodeId{id})) return *node;
  std::vector<std::string> ids;
  for (const Node& node : view.nodes) ids.push_back(node.id.value);
  return absl::NotFoundError(absl::StrCat("node \"", id, "\" is not in view ", view.number.value, "; its nodes are ",
                                          absl::StrJoin(ids, ", ")));
}

}  // namespace

absl::Status RunDrain(const Command& command, Transport* transport, std::ostream& out) {
  Runtime* const runtime = RealRuntime();
  absl::StatusOr<View> view = OpenView(command, transport);
  if (!view.ok()) return view.status();
  const absl::StatusOr<Node> node = FindNode(*view, command.node_id);
  if (!node.ok()) return node.status();
  const std::unique_ptr<Channel> channel = transport->Connect(node->address.ToString());
  v1::DrainRequest request;
  request.set_start(true);
  request.set_deadline_ms(absl::ToInt64Milliseconds(command.drain_deadline));
  request.set_budget_bytes(command.drain_budget_bytes);
  v1::DrainResponse last;
  bool started = false;
  for (absl::Time give_up = runtime->Now() + command.deadline;;) {
    const absl::StatusOr<v1::DrainResponse> progress =
        channel->Drain(request, std::min(give_up, runtime->Now() + command.deadline));
    if (!progress.ok()) {
      // A node that has handed over what it could leaves and ends; then nobody answers any more.
      if (started && absl::IsUnavailable(progress.status())) {
        last.set_phase(v1::DrainResponse::PHASE_LEFT);
        PrintProgress(command.node_id, last, command.json, out);
        return absl::OkStatus();
      }
      return absl::Status(progress.status().code(),
                          absl::StrCat("node ", command.node_id, " at ", node->address.ToString(), ": ",
                                       std::string(progress.status().message())));
    }
    last = *progress;
    PrintProgress(command.node_id, last, command.json, out);
    if (last.phase() == v1::DrainResponse::PHASE_LEFT) return absl::OkStatus();
    if (last.phase() != v1::DrainResponse::PHASE_HANDING_OVER) {
      return absl::FailedPreconditionError(absl::StrCat("node ", command.node_id, " does not drain: see its log"));
    }
    if (!started) give_up = runtime->Now() + absl::Milliseconds(last.left_ms()) + kSlack;
    started = true;
    request.set_start(false);
    if (runtime->Now() >= give_up) {
      return absl::DeadlineExceededError(
          absl::StrCat("node ", command.node_id,
                       " has not left by its own deadline; it may be stopped by now: what it "
                       "holds and could not hand over is lost to the cache, and to nothing else"));
    }
    runtime->SleepUntil(runtime->Now() + kPoll);
  }
}

}  // namespace kvist
