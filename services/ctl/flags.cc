#include "services/ctl/flags.h"

#include <CLI/CLI.hpp>
#include <array>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cluster/byte_size.h"
#include "services/cluster/view.h"
#include "services/ctl/python_command.h"
#include "services/version.h"

namespace kvist {
namespace {

constexpr int kMaxReplicas = 3;  // as ClientOptions.replicas

// Flags as they were written: CLI11 would stop at the first value that it cannot convert; all of them are to be named.
struct RawFlags {
  std::string cluster, nodes, ns, tokens, chain, kv, deadline = "10s", codec = "ladder", floor_db = "0", key_bits = "0",
                                                     mean_bits = "0", value_bits = "0", threads = "2", replicas = "1",
                                                     keys = "100000", seed = "1";
  std::string node_id, drain_deadline, drain_budget, interval = "2s", tls_cert, tls_key, tls_ca, tls_server_name,
                                                     bearer_file, token_name, profile_file, profile_act, profile,
                                                     output_file;
  bool json = false, version = false, once = false;
};

struct ActFlags {
  Act act;
  const char* name;
  const char* about;
  bool prompt = false, kv = false, encodes = false, random = false, drains = false, live = false, makes_token = false,
       profile = false;  // its groups of flags
};
constexpr std::array<ActFlags, 11> kActs = {{
    {.act = Act::kPut,
     .name = "put",
     .about = "Encodes and stores the full blocks of a prompt",
     .prompt = true,
     .kv = true,
     .encodes = true},
    {.act = Act::kGet,
     .name = "get",
     .about = "Fetches the stored leading blocks of a prompt and writes their KV",
     .prompt = true,
     .kv = true},
    {.act = Act::kMatch, .name = "match", .about = "Counts the stored leading blocks of a prompt", .prompt = true},
    {.act = Act::kExplain,
     .name = "explain",
     .about = "Tells of each block of a prompt where it is, or why it is missing",
     .prompt = true},
    {.act = Act::kStats, .name = "stats", .about = "Shows each node's state, memory and blocks"},
    {.act = Act::kErase, .name = "erase", .about = "Forgets the blocks of a prompt", .prompt = true},
    {.act = Act::kRing,
     .name = "ring",
     .about = "Shows which node owns each block of a prompt, or each node's share of random keys",
     .prompt = true,
     .random = true},
    {.act = Act::kDrain,
     .name = "drain",
     .about = "Makes a node hand its hottest blocks to their next owners and leave",
     .drains = true},
    {.act = Act::kTop,
     .name = "top",
     .about = "Shows memory, hit rates and bandwidth of the nodes, again and again",
     .live = true},
    {.act = Act::kToken,
     .name = "token",
     .about = "Makes a bearer token, and the line for the nodes' token file",
     .makes_token = true},
    {.act = Act::kProfile,
     .name = "profile",
     .about = "Shows a profile of codec q, has the nodes keep one, or fetches one from them",
     .profile = true},
}};

// Keys are enough for what needs no positions in a KV file.
bool TakesChain(const ActFlags& act) { return act.prompt && !act.kv && !act.random; }

void AddFlags(const ActFlags& act, RawFlags* raw, CLI::App* app) {
  app->allow_extras();
  if (act.makes_token) {
    app->add_option("NAME", raw->token_name, "Name of the token, as the access file has it behind token:");
    return;
  }
  app->add_option("--cluster", raw->cluster, "Static cluster file (JSON)");
  app->add_option("--node", raw->nodes, "Instead of a file: host:port of any node, or several with commas");
  if (!act.live) app->add_flag("--json", raw->json, "Print JSON instead of a table");
  if (act.prompt) {
    app->add_option("--namespace", raw->ns, "JSON file: model, dtype, layers, heads, head_dim, tokens_per_block, ...");
    app->add_option("--tokens", raw->tokens, "JSON file: the prompt's token ids, [1, 2, ...]");
  }
  if (TakesChain(act)) {
    app->add_option("--chain", raw->chain, "Instead of tokens: JSON file with the keys of the prompt's blocks, in hex");
  }
  if (act.prompt && !act.random) {
    app->add_option("--replicas", raw->replicas, "Nodes that keep each block, as the workers of the namespace say")
        ->capture_default_str();
  }
  if (act.prompt && !act.random) {
    app->add_option("--profile", raw->profile_file,
                    "Profile of codec q; the namespace is the one that names it. Without it get asks the nodes");
  }
  if (act.profile) {
    app->add_option("ACT", raw->profile_act, "show, put or get");
    app->add_option("PROFILE", raw->profile, "The profile's file, or its digest");
    app->add_option("-o,--output", raw->output_file, "File that get writes");
  }
  if (act.kv) {
    app->add_option("--kv", raw->kv, "16-bit KV, [2, layers, heads, tokens, head_dim]: read by put, written by get");
    app->add_option("--threads", raw->threads, "Threads that encode or decode")->capture_default_str();
  }
  if (act.encodes) {
    app->add_option(
           "--codec", raw->codec,
           "raw16, x16 (the same bits in fewer bytes), i8, ladder or trellis; fp8p for dtypes of one byte; q with "
           "--profile")
        ->capture_default_str();
    app->add_option("--floor-db", raw->floor_db, "Least SQNR of a tile; 0 = the codec's own")->capture_default_str();
    app->add_option("--key-bits", raw->key_bits,
                    "Bits of a key's codes: ladder 2, 3, 4 or 8, trellis 2 or 3; 0 = the codec's own")
        ->capture_default_str();
    app->add_option("--value-bits", raw->value_bits, "The same for values")->capture_default_str();
    app->add_option(
           "--mean-bits", raw->mean_bits,
           "In place of these, for ladder and trellis: bits in the mean, 2 to 8, more where the --profile says that "
           "errors cost most; 0 = all heads alike. The namespace names no profile then")
        ->capture_default_str();
  }
  if (act.drains) {
    app->add_option("NODE", raw->node_id, "Id of the node to drain");
    app->add_option("--hand-over", raw->drain_deadline, "Time for it, for example 60s; the node's own if not given");
    app->add_option("--budget", raw->drain_budget, "Bytes to hand over, for example 8GiB; the node's own if not given");
  }
  if (act.live) {
    app->add_option("--interval", raw->interval, "Between two frames, for example 2s")->capture_default_str();
    app->add_flag("--once", raw->once, "Print one frame, after one interval, and end");
  }
  if (act.random) {
    app->add_option("--keys", raw->keys, "Random keys to place when no prompt is given")->capture_default_str();
    app->add_option("--seed", raw->seed, "Of the random keys")->capture_default_str();
  }
  const auto tls = [app](const char* flag, std::string* value, const char* variable, const char* about) {
    app->add_option(flag, *value, about)->envname(variable);
  };
  tls("--tls-cert", &raw->tls_cert, "KVIST_TLS_CERT", "Certificate (PEM) to show to nodes; without it, plaintext");
  tls("--tls-key", &raw->tls_key, "KVIST_TLS_KEY", "Its key (PEM), which only its owner may read");
  tls("--tls-ca", &raw->tls_ca, "KVIST_TLS_CA", "CAs (PEM) that the nodes' certificates have to come from");
  tls("--token-file", &raw->bearer_file, "KVIST_TOKEN_FILE", "File with the bearer token to show to nodes");
  tls("--tls-server-name", &raw->tls_server_name, "KVIST_TLS_SERVER_NAME",
      "For tests: the name that those carry (default: the host of the node's address)");
  app->add_option("--deadline", raw->deadline, "Of every call, for example 500ms or 10s")->capture_default_str();
}

class Problems {
 public:
  void Require(bool right, absl::string_view flag, const std::string& what) {
    if (!right) problems_.push_back(absl::StrCat(flag, ": ", what));
  }
  absl::Status status() const {
    return problems_.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
  }

 private:
  std::vector<std::string> problems_;
};

void RequireProfile(const RawFlags& raw, Problems* problems) {
  const bool puts = raw.profile_act == "put", gets = raw.profile_act == "get";
  problems->Require(puts || gets || raw.profile_act == "show", "ACT", "needed: one of show, put, get");
  problems->Require(!raw.profile.empty(), "PROFILE", "needed: the profile's file, or its digest");
  if (puts) problems->Require(!IsDigest(raw.profile), "PROFILE", "put takes the profile's file");
  if (gets) problems->Require(IsDigest(raw.profile), "PROFILE", "get takes a digest, 32 hex digits");
  problems->Require(gets != raw.output_file.empty(), "--output", "get needs it, the others do not: the file to write");
}

void RequireFiles(const ActFlags& act, const RawFlags& raw, Problems* problems) {
  if (act.makes_token) return problems->Require(!raw.token_name.empty(), "NAME", "needed: the name of the token");
  if (act.profile) RequireProfile(raw, problems);
  const bool shows_file = act.profile && raw.profile_act == "show" && !IsDigest(raw.profile);
  problems->Require(shows_file || !raw.cluster.empty() || !raw.nodes.empty(), "--cluster or --node",
                    "needed: the static cluster file, or the address of any node");
  problems->Require(raw.cluster.empty() || raw.nodes.empty(), "--node", "give either --cluster or --node");
  if (act.drains) problems->Require(!raw.node_id.empty(), "NODE", "needed: the id of the node to drain");
  if (!act.prompt) return;
  const bool no_prompt = raw.ns.empty() && raw.tokens.empty();
  if (act.random && no_prompt) return;
  problems->Require(!raw.ns.empty(), "--namespace", "needed: a JSON file that says whose KV this is");
  problems->Require(!raw.tokens.empty() || !raw.chain.empty(), TakesChain(act) ? "--tokens or --chain" : "--tokens",
                    TakesChain(act) ? "needed: a JSON file with the prompt's token ids, or with its blocks' keys"
                                    : "needed: a JSON file with the prompt's token ids");
  problems->Require(raw.tokens.empty() || raw.chain.empty(), "--chain", "give either --tokens or --chain");
  if (act.kv) problems->Require(!raw.kv.empty(), "--kv", "needed: the file of 16-bit KV");
}

Command Read(const ActFlags& act, const RawFlags& raw, Problems* problems) {
  Command command;
  command.act = act.act;
  command.cluster_file = raw.cluster;
  command.seeds = absl::StrSplit(raw.nodes, ',', absl::SkipEmpty());
  command.node_id = raw.node_id;
  command.namespace_file = raw.ns;
  command.tokens_file = raw.tokens;
  command.chain_file = raw.chain;
  command.kv_file = raw.kv;
  command.json = raw.json;
  command.tls.cert_file = raw.tls_cert;
  command.tls.key_file = raw.tls_key;
  command.tls.ca_file = raw.tls_ca;
  command.tls.server_name = raw.tls_server_name;
  command.bearer_file = raw.bearer_file;
  command.token_name = raw.token_name;
  command.profile_file = raw.profile_file;
  command.profile_act = raw.profile_act == "put"   ? ProfileAct::kPut
                        : raw.profile_act == "get" ? ProfileAct::kGet
                                                   : ProfileAct::kShow;
  command.profile = raw.profile;
  command.output_file = raw.output_file;
  const bool by_token = command.tls.ca_alone() && !raw.bearer_file.empty();
  const absl::Status tls = by_token ? absl::OkStatus() : CheckAllOrNone(command.tls);
  problems->Require(tls.ok(), "--tls-cert, --tls-key, --tls-ca",
                    absl::StrCat("all three or none (the CA alone with --token-file): ", tls.message()));
  const auto quoted = [](const std::string& text, const char* otherwise) {
    return absl::StrCat("'", text, "' is ", otherwise);
  };
  problems->Require(absl::ParseDuration(raw.deadline, &command.deadline) && command.deadline >= absl::Milliseconds(1) &&
                        command.deadline <= absl::Minutes(10),
                    "--deadline", quoted(raw.deadline, "no duration of 1ms to 10m (write 500ms, 10s, 1m30s)"));
  const absl::StatusOr<Codec> codec = ParseCodec(raw.codec);
  problems->Require(codec.ok(), "--codec", std::string(codec.status().message()));
  command.codec = codec.value_or(Codec::kLadder);
  problems->Require(
      absl::SimpleAtof(raw.floor_db, &command.floor_db) && command.floor_db >= 0 && command.floor_db <= 200,
      "--floor-db", quoted(raw.floor_db, "no number of 0 to 200"));
  const auto bits = [&](const char* flag, const std::string& text, int* value) {
    problems->Require(absl::SimpleAtoi(text, value) && *value >= 0 && *value <= 16, flag,
                      quoted(text, "no number of 0 to 16"));
  };
  bits("--key-bits", raw.key_bits, &command.key_bits);
  bits("--value-bits", raw.value_bits, &command.value_bits);
  problems->Require(
      absl::SimpleAtof(raw.mean_bits, &command.mean_bits) && command.mean_bits >= 0 && command.mean_bits <= 8,
      "--mean-bits", quoted(raw.mean_bits, "no number of 0 to 8"));
  if (command.mean_bits > 0)
    problems->Require(!raw.profile_file.empty(), "--mean-bits", "needs --profile, which shares them out");
  problems->Require(absl::SimpleAtoi(raw.threads, &command.threads) && command.threads >= 1 && command.threads <= 256,
                    "--threads", quoted(raw.threads, "no number of 1 to 256"));
  problems->Require(
      absl::SimpleAtoi(raw.replicas, &command.replicas) && command.replicas >= 1 && command.replicas <= kMaxReplicas,
      "--replicas", quoted(raw.replicas, "no number of 1 to 3"));
  problems->Require(absl::SimpleAtoi(raw.keys, &command.keys) && command.keys >= 1 && command.keys <= 100000000,
                    "--keys", quoted(raw.keys, "no number of 1 to 100000000"));
  problems->Require(absl::SimpleAtoi(raw.seed, &command.seed), "--seed", quoted(raw.seed, "no number"));
  command.once = raw.once;
  problems->Require(absl::ParseDuration(raw.interval, &command.interval) &&
                        command.interval >= absl::Milliseconds(100) && command.interval <= absl::Hours(1),
                    "--interval", quoted(raw.interval, "no duration of 100ms to 1h"));
  for (const std::string& seed : command.seeds) {
    const absl::Status address = ParseAddress(seed).status();
    problems->Require(address.ok(), "--node", std::string(address.message()));
  }
  if (!raw.drain_deadline.empty()) {
    problems->Require(absl::ParseDuration(raw.drain_deadline, &command.drain_deadline) &&
                          command.drain_deadline >= absl::Seconds(1) && command.drain_deadline <= absl::Hours(24),
                      "--hand-over", quoted(raw.drain_deadline, "no duration of 1s to 24h"));
  }
  if (!raw.drain_budget.empty()) {
    const absl::StatusOr<uint64_t> budget = ParseByteSize(raw.drain_budget);
    problems->Require(budget.ok(), "--budget", std::string(budget.status().message()));
    command.drain_budget_bytes = budget.value_or(0);
  }
  return command;
}

}  // namespace

bool IsDigest(const std::string& text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

absl::StatusOr<ParsedCommand> ParseCommand(int argc, const char* const* argv) {
  RawFlags raw;
  CLI::App app("kvist: puts, finds and fetches KV blocks in a cluster", "kvist");
  app.add_flag("--version", raw.version, "Print the version and exit");
  app.footer(kPythonCommands);
  app.allow_extras();
  app.require_subcommand(0, 1);  // else `profile put` would be two commands
  std::array<CLI::App*, kActs.size()> parsers;
  for (size_t i = 0; i < kActs.size(); ++i) {
    parsers[i] = app.add_subcommand(kActs[i].name, kActs[i].about);
    AddFlags(kActs[i], &raw, parsers[i]);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return ParsedCommand{{}, app.help()};
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  if (raw.version) return ParsedCommand{{}, absl::StrCat("kvist ", kVersion, "\n")};

  Problems problems;
  for (const std::string& extra : app.remaining(/*recurse=*/true))
    problems.Require(false, extra, "unknown; see --help");
  ParsedCommand parsed;
  size_t acts = 0;
  for (size_t i = 0; i < kActs.size(); ++i) {
    if (!parsers[i]->parsed()) continue;
    ++acts;
    RequireFiles(kActs[i], raw, &problems);
    parsed.command = Read(kActs[i], raw, &problems);
  }
  problems.Require(acts == 1, "command",
                   "give one of put, get, match, explain, stats, erase, ring, drain, top, token, profile, eval");
  if (!problems.status().ok()) return problems.status();
  return parsed;
}

}  // namespace kvist
