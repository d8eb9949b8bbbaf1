// Goal    Blocks go from device to device over NCCL between two processes, every byte as it was, nearly as fast as NCCL
//         itself moves them.
// Method  nccl_check KIND [--nccl LIBRARY] [--one-gpu] [--json FILE] (device_kinds.h). Two ranks in processes of their own:
//         TransferSessions and DeviceLink with their control over real gRPC; then the same bytes by ncclSend and ncclRecv
//         alone, between the same processes and with the same configuration, in turn with ours. Two GPUs where there are
//         two; else one, with NCCL told to allow it (nccl_rank.cc). The ratio is judged on a GPU only.
// Exit    0 right; 1 wrong; 2 right, but below the reach; 3 no libnccl, no device, or one that NCCL does not serve.
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/gpu/nccl_roles.h"
#include "tests/gpu/verdict.h"

namespace kvist::testing {
namespace {

constexpr double kReach = 0.9;
constexpr absl::Duration kLong = absl::Seconds(90), kEnd = absl::Seconds(20);

// Carries the worker's orders to the node and the answers back, until the worker has a result.
absl::StatusOr<nlohmann::json> Relay(RoleProcess& node, RoleProcess& worker) {
  while (true) {
    const absl::StatusOr<std::string> said = worker.line().Hear(kLong);
    if (!said.ok()) return said.status();
    if (absl::StartsWith(*said, "done ")) return nlohmann::json::parse(said->substr(5));
    node.line().Say(*said);
    const absl::StatusOr<std::string> answer = node.line().Hear(kLong);
    if (!answer.ok()) return answer.status();
    worker.line().Say(*answer);
  }
}

void Print(const nlohmann::json& report) {
  std::printf("right: every byte of %d blocks came over NCCL %s, %s\n", report["extents"].get<int>() / 2,
              report["nccl"].get<std::string>().c_str(),
              report["one_gpu"].get<bool>() ? "on one GPU" : "to another GPU");
  std::printf("| %.0f MB in %d extents | GB/s |\n|---|---|\n", report["bytes"].get<double>() / 1e6,
              report["extents"].get<int>());
  for (const auto& [what, key] : {std::pair("transfers, two at once", "fetched_gb_per_s"),
                                  {"transfers, one at a time", "one_at_a_time_gb_per_s"},
                                  {"ncclSend and ncclRecv, same configuration", "raw_gb_per_s"},
                                  {"ncclSend and ncclRecv, NCCL's own choice of CTAs", "raw_unbounded_gb_per_s"}}) {
    std::printf("| %s | %.2f |\n", what, report[key].get<double>());
  }
}

int Judge(const NcclSetup& setup, nlohmann::json report, const std::string& json_path) {
  const double ratio = report["fetched_gb_per_s"].get<double>() / report["raw_gb_per_s"].get<double>();
  Print(report);
  report["ratio"] = ratio;
  report["reach"] = kReach;
  if (!json_path.empty()) std::ofstream(json_path) << report.dump(1) << "\n";
  if (setup.emulated()) {
    std::printf("of raw: not judged over an emulated device\n");
    return kRight;
  }
  std::printf("of raw: %.2f, reach %.2f%s\n", ratio, kReach, ratio < kReach ? ", MISSED" : "");
  return ratio < kReach ? kSlow : kRight;
}

int Check(const NcclSetup& setup, const std::string& json_path) {
  RoleProcess node([&](Line& line) { return RunNcclNode(setup, line); });
  const absl::StatusOr<std::string> up = node.line().Hear(kLong);
  if (!up.ok()) return node.Wait(kEnd).value_or(kWrong);  // the node has said why
  const std::string address = up->substr(std::string("address ").size());
  RoleProcess worker([&](Line& line) { return RunNcclWorker(setup, address, line); });
  const absl::StatusOr<nlohmann::json> report = Relay(node, worker);
  if (!report.ok()) {
    const int exit = worker.Wait(kEnd).value_or(kWrong);  // it has said why
    return exit == kNotHere ? kNotHere : Wrong(absl::StrCat("no result: ", report.status().message()));
  }
  worker.line().Say("end");
  if (worker.Wait(kEnd) != kRight) return Wrong("the worker does not end as it should");
  node.line().Say("end");
  if (node.Wait(kEnd) != kRight) return Wrong("the node does not end as it should");
  return Judge(setup, *report, json_path);
}

}  // namespace
}  // namespace kvist::testing

int main(int argc, char** argv) {
  using namespace kvist::testing;  // NOLINT
  NcclSetup setup;
  std::string json_path;
  bool understood = argc > 1;
  if (understood) setup.kind = argv[1];
  for (int i = 2; i < argc && understood; ++i) {
    const std::string flag = argv[i];
    if (flag == "--one-gpu") {
      setup.one_gpu = true;
    } else if (i + 1 < argc && (flag == "--nccl" || flag == "--json")) {
      (flag == "--nccl" ? setup.library : json_path) = argv[++i];
    } else {
      understood = false;
    }
  }
  if (!understood) return Wrong("usage: nccl_check Emulated|Cuda [--nccl LIBRARY] [--one-gpu] [--json FILE]");
  return Check(setup, json_path);
}
