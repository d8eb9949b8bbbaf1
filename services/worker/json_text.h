// JSON as the text that users get. What nodes and users say may be no UTF-8 (the message of a gRPC status is any
// bytes): what cannot be shown is replaced, where nlohmann's dump() would throw.
#ifndef KVIST_SERVICES_WORKER_JSON_TEXT_H_
#define KVIST_SERVICES_WORKER_JSON_TEXT_H_

#include <nlohmann/json.hpp>
#include <string>

namespace kvist {

// In one line; or by lines, each level indented by so many spaces.
inline std::string JsonText(const nlohmann::ordered_json& json, int indent = -1) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_JSON_TEXT_H_
