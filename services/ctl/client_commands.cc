#include <array>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cluster/byte_size.h"
#include "services/ctl/commands.h"
#include "services/ctl/input_files.h"
#include "services/ctl/open_client.h"
#include "services/ctl/report.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"
#include "services/worker/explain_json.h"
#include "services/worker/json_text.h"
#include "services/worker/node_json.h"

namespace kvist {
namespace {

using Json = nlohmann::ordered_json;

// What a command about a prompt works on.
struct Prompt {
  std::unique_ptr<Client> client;
  size_t tokens = 0;  // that the blocks hold, and those behind the last full one if they were given
  std::vector<Key> chain;
};

absl::StatusOr<Prompt> OpenPrompt(const Command& command, Transport* transport) {
  absl::StatusOr<Namespace> ns = ReadNamespaceFile(command.namespace_file);
  if (!ns.ok()) return ns.status();
  absl::StatusOr<std::vector<Key>> chain = std::vector<Key>();
  absl::StatusOr<std::vector<uint32_t>> tokens = std::vector<uint32_t>();
  if (command.chain_file.empty()) {
    tokens = ReadTokensFile(command.tokens_file);
  } else {
    chain = ReadChainFile(command.chain_file);
  }
  if (!tokens.ok()) return tokens.status();
  if (!chain.ok()) return chain.status();
  absl::StatusOr<std::unique_ptr<Client>> client = OpenClient(command, *std::move(ns), transport);
  if (!client.ok()) return client.status();
  Prompt prompt{*std::move(client), tokens->size(), *std::move(chain)};
  if (command.chain_file.empty()) {
    prompt.chain = prompt.client->Keys(*tokens);
  } else {
    prompt.tokens = prompt.chain.size() * prompt.client->ns().tokens_per_block;
  }
  return prompt;
}

absl::Status Put(const Command& command, Prompt& prompt, std::ostream& out) {
  const BlockShape shape = prompt.client->ns().Shape();
  const absl::StatusOr<Kv> kv = ReadKvFile(command.kv_file, shape, prompt.chain.size() * shape.tokens);
  if (!kv.ok()) return kv.status();
  const absl::StatusOr<PutResult> result =
      prompt.client->Put(prompt.chain, ContiguousPages(kv->values.data(), shape, kv->tokens));
  if (!result.ok()) return result.status();
  const double ratio = result->stored_bytes == 0 ? 0 : static_cast<double>(result->plain_bytes) / result->stored_bytes;
  Print(Json{{"codec", std::string(CodecName(command.codec))},
             {"blocks", result->blocks},
             {"stored", result->stored},
             {"present", result->present},
             {"failed", result->failed},
             {"failure", result->failure},
             {"plain_bytes", result->plain_bytes},
             {"stored_bytes", result->stored_bytes},
             {"ratio", ratio},
             {"raised_tiles", result->raised_tiles},
             {"min_sqnr_db", result->min_sqnr_db},
             {"encode_seconds", absl::ToDoubleSeconds(result->encode_time)},
             {"seconds", absl::ToDoubleSeconds(result->time)}},
        command.json, out);
  if (result->failed == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(result->failed, " blocks were not stored: ", result->failure));
}

// What Get will need, if the namespace names one: a command has no second Get for which it could come in the background.
absl::Status FetchProfileOf(Client& client) {
  const auto& digest = client.ns().profile_digest;
  return digest == std::array<uint8_t, 16>{} ? absl::OkStatus() : client.FetchProfile(digest).status();
}

absl::Status Get(const Command& command, Prompt& prompt, std::ostream& out) {
  const absl::Status profile = FetchProfileOf(*prompt.client);
  const absl::StatusOr<PrefixMatch> match = prompt.client->Match(prompt.chain);
  if (!match.ok()) return match.status();
  const BlockShape shape = prompt.client->ns().Shape();
  Kv kv;
  kv.tokens = match->tokens();
  kv.values.resize(2 * shape.layers * shape.heads * kv.tokens * shape.RowUnits());
  absl::StatusOr<GetResult> result =
      prompt.client->Get(prompt.chain, {0, match->blocks()}, ContiguousPages(kv.values.data(), shape, kv.tokens));
  if (!result.ok()) return result.status();
  if (result->miss == v1::MISS_REASON_UNSPECIFIED) {  // all that was matched came: the match knows what ends the run
    result->miss = match->miss();
    result->miss_node = match->miss_node();
    result->why = match->why();
  }
  if (result->miss == v1::MISS_REASON_NO_PROFILE) result->why = std::string(profile.message());
  const size_t tokens = result->blocks * shape.tokens;
  if (absl::Status written = WriteKvFile(command.kv_file, shape, kv, tokens); !written.ok()) return written;
  Print(Json{{"blocks", result->blocks},
             {"tokens", tokens},
             {"miss_reason", MissReasonName(result->miss)},
             {"miss_node", result->miss_node},
             {"why", result->why},
             {"fetched_bytes", result->fetched_bytes},
             {"plain_bytes", result->plain_bytes},
             {"fetch_seconds", absl::ToDoubleSeconds(result->fetch_time)},
             {"decode_seconds", absl::ToDoubleSeconds(result->decode_time)}},
        command.json, out);
  return absl::OkStatus();
}

absl::Status Match(const Command& command, Prompt& prompt, std::ostream& out) {
  absl::StatusOr<PrefixMatch> match = prompt.client->Match(prompt.chain);
  if (!match.ok()) return match.status();
  Print(Json{{"blocks", match->blocks()},
             {"of_blocks", prompt.chain.size()},
             {"tokens", match->tokens()},
             {"of_tokens", prompt.tokens},
             {"miss_reason", MissReasonName(match->miss())},
             {"miss_node", match->miss_node()},
             {"why", match->why()}},
        command.json, out);
  return absl::OkStatus();
}

absl::Status Explain(const Command& command, Prompt& prompt, std::ostream& out) {
  const absl::StatusOr<ExplainResult> result = prompt.client->Explain(prompt.chain);
  if (!result.ok()) return result.status();
  const Json json = ExplainJson(*result);
  if (command.json) {
    out << JsonText(json, 2) << "\n";
    return absl::OkStatus();
  }
  out << result->leading << " of " << prompt.chain.size() << " blocks can be read\n";
  std::vector<std::vector<std::string>> rows = {{"block", "node", "what", "size", "detail"}};
  for (size_t i = 0; i < result->blocks.size(); ++i) {
    const BlockExplanation& block = result->blocks[i];
    std::string detail = block.detail;
    const auto add = [&](const std::string& part) { absl::StrAppend(&detail, detail.empty() ? "" : "; ", part); };
    const auto when = [](absl::Time time) { return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone()); };
    if (block.expires != absl::InfiniteFuture()) add("expires " + when(block.expires));
    if (block.gone != absl::InfinitePast()) add("gone " + when(block.gone));
    if (block.made_room_for) add("its room went to block " + block.made_room_for->Hex().substr(0, 16));
    const std::string what = block.miss == v1::MISS_REASON_UNSPECIFIED ? "present" : MissReasonName(block.miss);
    rows.push_back(
        {absl::StrCat(i), block.node, what, block.size_bytes == 0 ? "" : FormatByteSize(block.size_bytes), detail});
  }
  PrintTable(rows, out);
  for (const NearNamespaceFound& near : result->near) {
    out << "almost this namespace: " << near.digest << " with " << near.blocks << " blocks differs in";
    for (const v1::FieldDifference& field : near.fields) {
      out << " " << field.name() << " (asked " << field.asked() << ", stored " << field.stored() << ")";
    }
    out << "\n";
  }
  return absl::OkStatus();
}

absl::Status Erase(const Command& command, Prompt& prompt, std::ostream& out) {
  const absl::StatusOr<EraseResult> result = prompt.client->Erase(prompt.chain);
  if (!result.ok()) return result.status();
  Print(Json{{"blocks", prompt.chain.size()},
             {"erased", result->erased},
             {"failed", result->failed},
             {"failure", result->failure}},
        command.json, out);
  if (result->failed == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(result->failed, " blocks were not erased: ", result->failure));
}

// "serving", "joining 40 %".
std::string StateText(const Node& node) {
  const std::string name(NodeStateName(node.state));
  return node.state == NodeState::kJoining ? absl::StrFormat("%s %.0f %%", name, 100 * node.ramp) : name;
}

std::vector<std::string> StatsRow(const NodeAnswer& state) {
  std::vector<std::string> row = {state.node.id.value, state.node.address.ToString(), StateText(state.node)};
  if (!state.reachable.ok()) {
    row.push_back(absl::StrCat("down: ", std::string(state.reachable.message())));
    return row;
  }
  const v1::StoreState& store = state.info.store();
  for (const uint64_t size_bytes :
       {store.capacity_bytes(), store.used_bytes(), store.pinned_bytes(), store.reserved_bytes()}) {
    row.push_back(FormatByteSize(size_bytes));
  }
  for (const uint64_t count : {store.blocks(), store.leases(), store.evicted_blocks(), state.info.view()})
    row.push_back(absl::StrCat(count));
  return row;
}

absl::Status Stats(const Command& command, Transport* transport, std::ostream& out) {
  const absl::StatusOr<std::unique_ptr<Client>> client = OpenClient(command, AnyNamespace(), transport);
  if (!client.ok()) return client.status();
  Json nodes = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"node", "address", "state", "capacity", "used", "pinned", "reserved", "blocks", "leases", "evicted", "view"}};
  bool any_reachable = false;
  for (const NodeAnswer& state : (*client)->Stats()) {
    nodes.push_back(NodeJson(state));
    rows.push_back(StatsRow(state));
    any_reachable = any_reachable || state.reachable.ok();
  }
  if (command.json) {
    out << JsonText(nodes, 2) << "\n";
  } else {
    PrintTable(rows, out);
  }
  return any_reachable ? absl::OkStatus() : absl::UnavailableError("no node of the cluster can be reached");
}

}  // namespace

absl::Status RunClientCommand(const Command& command, Transport* transport, std::ostream& out) {
  if (command.act == Act::kStats) return Stats(command, transport, out);
  absl::StatusOr<Prompt> prompt = OpenPrompt(command, transport);
  if (!prompt.ok()) return prompt.status();
  switch (command.act) {
    case Act::kPut:
      return Put(command, *prompt, out);
    case Act::kGet:
      return Get(command, *prompt, out);
    case Act::kMatch:
      return Match(command, *prompt, out);
    case Act::kExplain:
      return Explain(command, *prompt, out);
    case Act::kErase:
      return Erase(command, *prompt, out);
    default:
      return absl::InternalError("no command of the client");
  }
}

absl::Status RunCommand(const Command& command, Transport* transport, std::ostream& out) {
  switch (command.act) {
    case Act::kRing:
      return RunRing(command, transport, out);
    case Act::kDrain:
      return RunDrain(command, transport, out);
    case Act::kTop:
      return RunTop(command, transport, out);
    case Act::kToken:
      return RunToken(command, out);
    case Act::kProfile:
      return RunProfile(command, transport, out);
    default:
      return RunClientCommand(command, transport, out);
  }
}

}  // namespace kvist
