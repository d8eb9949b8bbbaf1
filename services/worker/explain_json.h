// What became of a prompt's blocks as JSON: what kvist_explain_json and `kvist explain --json` both print.
#ifndef KVIST_SERVICES_WORKER_EXPLAIN_JSON_H_
#define KVIST_SERVICES_WORKER_EXPLAIN_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"

namespace kvist {

inline std::string TierName(v1::Tier tier) {
  return tier == v1::TIER_UNSPECIFIED ? "" : absl::AsciiStrToLower(absl::StripPrefix(v1::Tier_Name(tier), "TIER_"));
}

inline nlohmann::ordered_json ExplainJson(const BlockExplanation& block) {
  nlohmann::ordered_json json = {{"present", block.miss == v1::MISS_REASON_UNSPECIFIED},
                                 {"miss_reason", MissReasonName(block.miss)},
                                 {"node", block.node}};
  if (block.tier != v1::TIER_UNSPECIFIED) json["tier"] = TierName(block.tier);
  if (block.size_bytes > 0) json["size_bytes"] = block.size_bytes;
  if (block.expires != absl::InfiniteFuture()) {
    json["expires"] = absl::FormatTime(block.expires, absl::UTCTimeZone());
  }
  if (block.gone != absl::InfinitePast()) json["gone"] = absl::FormatTime(block.gone, absl::UTCTimeZone());
  if (block.made_room_for) json["made_room_for"] = block.made_room_for->Hex();
  if (!block.detail.empty()) json["detail"] = block.detail;
  return json;
}

inline nlohmann::ordered_json ExplainJson(const ExplainResult& result) {
  nlohmann::ordered_json json = {{"leading_blocks", result.leading},
                                 {"blocks", nlohmann::ordered_json::array()},
                                 {"near_namespaces", nlohmann::ordered_json::array()}};
  for (const BlockExplanation& block : result.blocks) json["blocks"].push_back(ExplainJson(block));
  for (const NearNamespaceFound& near : result.near) {
    nlohmann::ordered_json fields = nlohmann::ordered_json::array();
    for (const v1::FieldDifference& field : near.fields) {
      fields.push_back({{"name", field.name()}, {"asked", field.asked()}, {"stored", field.stored()}});
    }
    json["near_namespaces"].push_back({{"digest", near.digest}, {"blocks", near.blocks}, {"fields", fields}});
  }
  return json;
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_EXPLAIN_JSON_H_
