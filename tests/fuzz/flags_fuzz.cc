// Goal    No command line makes the parsers of kvistd and kvist exit, throw or accept what is out of range.
// Input   One byte that says which program, then the arguments, one a line.
// Method  The process stands in a folder of its own with one cluster file, `c`; paths lead nowhere else. A command line
//         that is written from what was accepted means the same.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/ctl/flags.h"
#include "services/node/config.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate serves("kvistd serves"), from_file("kvistd takes its address from the file"), refused("kvistd refuses"),
    said("kvistd prints and exits"), commands("kvist does its act"), drains("kvist drains"),
    refused_command("kvist refuses"), said_command("kvist prints and exits");

constexpr char kClusterFile[] = R"({"view": 3, "nodes": [
  {"id": "n0", "address": "127.0.0.1:7070", "capacity": "64MiB"},
  {"id": "n1", "address": "[::1]:0", "weight": 2, "capacity": 100000}]})";

using Args = std::vector<std::string>;

bool EnterOwnFolder() {
  std::string folder = std::filesystem::temp_directory_path() / "kvist-flags-fuzz-XXXXXX";
  KVIST_HOLDS(mkdtemp(folder.data()) != nullptr, folder);
  std::filesystem::current_path(folder);
  std::ofstream("c") << kClusterFile;
  static const std::string entered = folder;
  std::atexit([] { std::filesystem::remove_all(entered); });
  return true;
}

// REQUIRES: no argument holds a zero byte.
template <typename Parser>
auto Call(const Args& args, const Parser& parser) {
  std::vector<const char*> argv = {"program"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  return parser(static_cast<int>(argv.size()), argv.data());
}

Args TakeArgs(fuzz::Input* input) {
  std::string text = input->RestText();
  for (char& c : text) {
    if (c == '\0' || c == '/') c = '_';
  }
  Args args = absl::StrSplit(text, '\n');
  if (args.size() > 40) args.resize(40);
  return args;
}

std::string Said(const Args& args) { return absl::StrJoin(args, " "); }

void CheckNode(const Args& args) {
  const absl::StatusOr<ParsedFlags> parsed = Call(args, &ParseFlags);
  if (!parsed.ok()) {
    KVIST_HOLDS(parsed.status().code() == absl::StatusCode::kInvalidArgument, parsed.status().ToString());
    KVIST_HOLDS(!parsed.status().message().empty(), "refused without a word: ", Said(args));
    return refused.Pass();
  }
  if (!parsed->print_and_exit.empty()) return said.Pass();
  const NodeConfig& config = parsed->config;
  KVIST_HOLDS(config.max_lease >= absl::ZeroDuration() && config.max_lease <= absl::Minutes(10), Said(args));
  KVIST_HOLDS(config.drain >= absl::ZeroDuration() && config.drain <= absl::Minutes(30), Said(args));
  KVIST_HOLDS(!config.id.value.empty() && !config.listen.host.empty() && !config.http.host.empty(), Said(args));
  Args again = {"--listen=" + config.listen.ToString(),
                absl::StrCat("--capacity=", config.capacity_bytes),
                "--http=" + config.http.ToString(),
                "--max-lease=" + absl::FormatDuration(config.max_lease),
                "--drain=" + absl::FormatDuration(config.drain),
                "--log-level=" + config.log_level,
                "--node=" + config.id.value};
  if (!config.cluster_file.empty()) again.push_back("--cluster=" + config.cluster_file);
  if (!config.prefault) again.push_back("--no-prefault");
  if (config.insecure) again.push_back("--insecure");
  if (config.tls.any()) {
    again.insert(again.end(), {"--tls-cert=" + config.tls.cert_file, "--tls-key=" + config.tls.key_file,
                               "--tls-ca=" + config.tls.ca_file});
  }
  const absl::StatusOr<ParsedFlags> second = Call(again, &ParseFlags);
  KVIST_HOLDS(second.ok(), Said(again), ": ", second.status().message());
  const NodeConfig& same = second->config;
  KVIST_HOLDS(same.listen == config.listen && same.http == config.http && same.capacity_bytes == config.capacity_bytes,
              Said(args), " / ", Said(again));
  KVIST_HOLDS(same.max_lease == config.max_lease && same.drain == config.drain && same.id == config.id, Said(again));
  (config.cluster_file.empty() ? serves : from_file).Pass();
}

void CheckCommand(const Args& args) {
  const absl::StatusOr<ParsedCommand> parsed = Call(args, &ParseCommand);
  if (!parsed.ok()) {
    KVIST_HOLDS(parsed.status().code() == absl::StatusCode::kInvalidArgument, parsed.status().ToString());
    KVIST_HOLDS(!parsed.status().message().empty(), "refused without a word: ", Said(args));
    return refused_command.Pass();
  }
  if (!parsed->print_and_exit.empty()) return said_command.Pass();
  const Command& command = parsed->command;
  KVIST_HOLDS(command.deadline >= absl::Milliseconds(1) && command.deadline <= absl::Minutes(10), Said(args));
  KVIST_HOLDS(command.threads >= 1 && command.threads <= 256, Said(args));
  KVIST_HOLDS(command.floor_db >= 0 && command.floor_db <= 200, Said(args));
  KVIST_HOLDS(command.keys >= 1 && command.keys <= 100000000, Said(args));
  KVIST_HOLDS(command.cluster_file.empty() != command.seeds.empty(), "one source of the view: ", Said(args));
  for (const std::string& seed : command.seeds) KVIST_HOLDS(ParseAddress(seed).ok(), seed);
  if (command.act == Act::kDrain) {
    KVIST_HOLDS(!command.node_id.empty() && command.drain_deadline <= absl::Hours(24), Said(args));
    drains.Pass();
  }
  commands.Pass();
}

void Run(fuzz::Input input) {
  [[maybe_unused]] static const bool entered = EnterOwnFolder();
  const bool node = input.Flag();
  const Args args = TakeArgs(&input);
  node ? CheckNode(args) : CheckCommand(args);
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
