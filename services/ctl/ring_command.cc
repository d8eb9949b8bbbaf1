#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cluster/ring.h"
#include "services/cluster/static_file.h"
#include "services/ctl/commands.h"
#include "services/ctl/input_files.h"
#include "services/ctl/open_client.h"
#include "services/ctl/report.h"
#include "services/worker/json_text.h"

namespace kvist {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

void PrintBoth(const Json& json, const Rows& rows, const Command& command, std::ostream& out) {
  if (command.json) {
    out << JsonText(json, 2) << "\n";
  } else {
    PrintTable(rows, out);
  }
}

void PrintShares(const Command& command, const View& view, std::ostream& out) {
  std::mt19937_64 random(command.seed);
  std::vector<uint64_t> owned(view.nodes.size());
  for (uint64_t i = 0; i < command.keys; ++i) {
    Key key;
    for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
    ++owned[Owner(key, view)];
  }
  double weights = 0;
  for (const Node& node : view.nodes) weights += PlacementWeight(node);
  if (weights == 0) weights = 1;  // all of them drain: nobody expects a share
  Rows rows = {{"node", "state", "weight", "share", "expected"}};
  Json nodes = Json::array();
  for (size_t i = 0; i < view.nodes.size(); ++i) {
    const Node& node = view.nodes[i];
    const double share = static_cast<double>(owned[i]) / static_cast<double>(command.keys),
                 expected = PlacementWeight(node) / weights;
    rows.push_back({node.id.value, std::string(NodeStateName(node.state)), absl::StrCat(PlacementWeight(node)),
                    absl::StrFormat("%.2f %%", 100 * share), absl::StrFormat("%.2f %%", 100 * expected)});
    nodes.push_back({{"node", node.id.value},
                     {"state", std::string(NodeStateName(node.state))},
                     {"weight", PlacementWeight(node)},
                     {"share", share},
                     {"expected", expected}});
  }
  PrintBoth({{"view", view.number.value}, {"keys", command.keys}, {"seed", command.seed}, {"nodes", nodes}}, rows,
            command, out);
}

absl::Status PrintPrompt(const Command& command, const View& view, std::ostream& out) {
  const absl::StatusOr<Namespace> ns = ReadNamespaceFile(command.namespace_file);
  if (!ns.ok()) return ns.status();
  const absl::StatusOr<std::vector<uint32_t>> tokens = ReadTokensFile(command.tokens_file);
  if (!tokens.ok()) return tokens.status();
  const std::vector<Key> chain = ChainKeys(NamespaceDigest(*ns), ns->tokens_per_block, *tokens);
  const std::vector<size_t> owners = ChainOwners(chain, view);
  Rows rows = {{"block", "tokens", "segment", "node", "key"}};
  Json blocks = Json::array();
  for (size_t block = 0; block < chain.size(); ++block) {
    const size_t first = block * ns->tokens_per_block, last = first + ns->tokens_per_block;
    const std::string& node = view.nodes[owners[block]].id.value;
    rows.push_back({absl::StrCat(block), absl::StrCat(first, "..", last - 1), absl::StrCat(SegmentHead(block)), node,
                    chain[block].Hex()});
    blocks.push_back({{"block", block},
                      {"first_token", first},
                      {"segment", SegmentHead(block)},
                      {"node", node},
                      {"key", chain[block].Hex()}});
  }
  PrintBoth({{"view", view.number.value}, {"blocks", blocks}}, rows, command, out);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunRing(const Command& command, Transport* transport, std::ostream& out) {
  const absl::StatusOr<View> view =
      command.cluster_file.empty() ? OpenView(command, transport) : ReadClusterFile(command.cluster_file);
  if (!view.ok()) return view.status();
  if (!command.tokens_file.empty()) return PrintPrompt(command, *view, out);
  PrintShares(command, *view, out);
  return absl::OkStatus();
}

}  // namespace kvist
