// One node's state as JSON: what kvist_stats_json and `kvist stats --json` both print.
#ifndef KVIST_SERVICES_WORKER_NODE_JSON_H_
#define KVIST_SERVICES_WORKER_NODE_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "services/worker/client.h"

namespace kvist {

inline nlohmann::ordered_json NodeJson(const NodeAnswer& state) {
  nlohmann::ordered_json json = {{"id", state.node.id.value},   {"address", state.node.address.ToString()},
                                 {"weight", state.node.weight}, {"state", std::string(NodeStateName(state.node.state))},
                                 {"ramp", state.node.ramp},     {"reachable", state.reachable.ok()}};
  if (!state.reachable.ok()) {
    json["error"] = std::string(state.reachable.message());
    return json;
  }
  const v1::ServerInfoResponse& info = state.info;
  json["version"] = info.version();
  json["view"] = info.view();
  json["format_version"] = info.format_version();
  json["codecs"] = nlohmann::ordered_json::array();
  for (const int codec : info.codecs()) {
    const std::string& name = v1::Codec_Name(static_cast<v1::Codec>(codec));
    json["codecs"].push_back(absl::AsciiStrToLower(absl::StripPrefix(name, "CODEC_")));
  }
  json["max_keys"] = info.max_keys();
  json["max_block_bytes"] = info.max_block_bytes();
  json["max_lease_ms"] = info.max_lease_ms();
  json["capacity_bytes"] = info.store().capacity_bytes();
  json["used_bytes"] = info.store().used_bytes();
  json["pinned_bytes"] = info.store().pinned_bytes();
  json["reserved_bytes"] = info.store().reserved_bytes();
  json["blocks"] = info.store().blocks();
  json["leases"] = info.store().leases();
  json["evicted_blocks"] = info.store().evicted_blocks();
  json["evicted_bytes"] = info.store().evicted_bytes();
  return json;
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_NODE_JSON_H_
