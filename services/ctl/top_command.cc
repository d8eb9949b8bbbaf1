#include <httplib.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/ctl/commands.h"
#include "services/ctl/metrics_address.h"
#include "services/ctl/open_client.h"
#include "services/ctl/top_frame.h"
#include "services/runtime/runtime.h"

namespace kvist {
namespace {

constexpr int kAnswerSeconds = 2;
constexpr char kClear[] = "\x1b[H\x1b[2J";

NodeLook LookAt(const Node& node, const std::string& cluster_file) {
  NodeLook look;
  look.node = node.id.value;
  const absl::StatusOr<Address> address = MetricsAddress(node, cluster_file);
  if (!address.ok()) {
    look.problem = std::string(address.status().message());
    return look;
  }
  httplib::Client client(address->host, address->port);
  client.set_connection_timeout(kAnswerSeconds);
  client.set_read_timeout(kAnswerSeconds);
  const httplib::Result answer = client.Get("/metrics");
  if (!answer || answer->status != 200) {
    look.problem = absl::StrCat("http://", address->ToString(), "/metrics does not answer (",
                                answer ? absl::StrCat(answer->status) : httplib::to_string(answer.error()), ")");
    return look;
  }
  look.metrics = MetricsText(answer->body);
  return look;
}

// All nodes at once: one that hangs costs the others nothing.
Look LookAtAll(const View& view, const std::string& cluster_file, Runtime* runtime) {
  Look look;
  look.when = runtime->Now();
  look.view = view.number.value;
  look.nodes.resize(view.nodes.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < view.nodes.size(); ++i) {
    threads.emplace_back([&view, &cluster_file, &look, i] { look.nodes[i] = LookAt(view.nodes[i], cluster_file); });
  }
  for (std::thread& thread : threads) thread.join();
  return look;
}

bool AnyAnswers(const Look& look) {
  for (const NodeLook& node : look.nodes) {
    if (node.problem.empty()) return true;
  }
  return false;
}

}  // namespace

absl::Status RunTop(const Command& command, Transport* transport, std::ostream& out) {
  Runtime* const runtime = RealRuntime();
  absl::StatusOr<View> view = OpenView(command, transport);
  if (!view.ok()) return view.status();
  for (Look before = LookAtAll(*view, command.cluster_file, runtime);;) {
    runtime->SleepUntil(before.when + command.interval);
    // The members may have changed. One who cannot be asked just now has not made them change.
    if (absl::StatusOr<View> newer = OpenView(command, transport); newer.ok()) view = std::move(newer);
    Look after = LookAtAll(*view, command.cluster_file, runtime);
    const std::string frame = TopFrame(before, after);
    if (command.once) {
      out << frame;
      return AnyAnswers(after) ? absl::OkStatus() : absl::UnavailableError("no node's /metrics can be reached");
    }
    out << kClear << frame << std::flush;
    if (!out) return absl::OkStatus();
    before = std::move(after);
  }
}

}  // namespace kvist
