#include "tests/bench/placement.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <istream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "cachestore/key.h"
#include "services/cluster/ring.h"

namespace kvist::bench {
namespace {

constexpr size_t kBlockTokens = 128, kHashTokens = 512;
constexpr double kLongestPrompt = 512;  // blocks

Key RandomKey(std::mt19937_64& random) {
  Key key;
  for (size_t at = 0; at < key.bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(key.bytes.data() + at, &word, sizeof(word));
  }
  return key;
}

// The key of a block of the trace: its hash id names its whole prefix.
Key KeyOf(uint64_t hash_id, size_t block) {
  std::mt19937_64 random(hash_id * 0x9E3779B97F4A7C15 + block);
  return RandomKey(random);
}

}  // namespace

View EqualNodes(size_t nodes) {
  View view{ViewNumber{1}, {}};
  for (size_t i = 0; i < nodes; ++i) {
    Node node;
    node.id.value = absl::StrCat("kvist-", i);
    node.address = {absl::StrCat(node.id.value, ".kvist"), 7000};
    view.nodes.push_back(node);
  }
  return view;
}

double Spread::MaxToMean() const {
  const uint64_t most = *std::max_element(by_node.begin(), by_node.end());
  return static_cast<double>(most) * static_cast<double>(by_node.size()) / static_cast<double>(blocks);
}

Moves MovedByOneJoin(size_t nodes, size_t segments, uint64_t seed) {
  const View after = EqualNodes(nodes), before = EqualNodes(nodes - 1);
  std::mt19937_64 random(seed);
  Moves moves;
  moves.segments = segments;
  moves.ideal = static_cast<double>(segments) / static_cast<double>(nodes);
  for (size_t i = 0; i < segments; ++i) {
    const Key head = RandomKey(random);
    const size_t owner = Owner(head, after);
    if (owner == Owner(head, before)) continue;
    ++moves.moved;
    moves.astray += owner != nodes - 1;
  }
  return moves;
}

Spread SpreadOfPrompts(size_t nodes, size_t segments, uint64_t seed) {
  const View view = EqualNodes(nodes);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  Spread spread;
  spread.by_node.resize(nodes);
  while (spread.segments < segments) {
    const auto prompt = static_cast<size_t>(std::pow(kLongestPrompt, uniform(random)));
    size_t owner = 0;
    for (size_t block = 0; block < prompt; ++block) {
      if (SegmentHead(block) == block) {
        if (spread.segments == segments) break;
        ++spread.segments;
        owner = Owner(RandomKey(random), view);
      }
      ++spread.by_node[owner];
      ++spread.blocks;
    }
  }
  return spread;
}

absl::StatusOr<TraceSpread> SpreadOfTrace(size_t nodes, std::istream& trace) {
  const View view = EqualNodes(nodes);
  TraceSpread result;
  result.stored.by_node.resize(nodes);
  result.read.by_node.resize(nodes);
  std::unordered_map<uint64_t, size_t> owners;  // of blocks that are stored, by hash id and block within it
  for (std::string line; std::getline(trace, line);) {
    const nlohmann::json request = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool good = request.is_object() && request.contains("input_length") && request.contains("hash_ids") &&
                      request["input_length"].is_number_unsigned() && request["hash_ids"].is_array();
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", result.requests + 1, " is no request with input_length and hash_ids"));
    }
    const std::vector<uint64_t> ids = request["hash_ids"].get<std::vector<uint64_t>>();
    const size_t blocks =
        std::min(request["input_length"].get<size_t>() / kBlockTokens, ids.size() * kHashTokens / kBlockTokens);
    const auto id_of = [&](size_t block) { return ids[block * kBlockTokens / kHashTokens]; };
    const auto part_of = [](size_t block) { return block % (kHashTokens / kBlockTokens); };
    for (size_t block = 0; block < blocks; ++block) {
      const auto [entry, is_new] = owners.try_emplace(id_of(block) * (kHashTokens / kBlockTokens) + part_of(block));
      if (is_new) {
        const size_t head = SegmentHead(block);
        entry->second = Owner(KeyOf(id_of(head), part_of(head)), view);
        result.stored.segments += head == block;
        ++result.stored.by_node[entry->second];
      }
      ++result.read.by_node[entry->second];
    }
    ++result.requests;
  }
  if (owners.empty()) return absl::InvalidArgumentError("the trace holds no whole block");
  result.stored.blocks = owners.size();
  result.read.blocks = std::accumulate(result.read.by_node.begin(), result.read.by_node.end(), uint64_t{0});
  return result;
}

}  // namespace kvist::bench
