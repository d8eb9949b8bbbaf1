// Goal    The files that people give to kvist are read as they are written, or refused with all that is wrong.
// Input   One byte that says which file, then the file.
// Method  Every field of an accepted file is compared with a plain reading of the JSON: none is taken for another value
//         or passed over.
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "services/ctl/input_files.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;
using Json = nlohmann::json;

Gate ns_gate("a namespace"), with_profile("a namespace with a profile"), wrong_ns("a namespace that is not valid"),
    tokens_gate("tokens"), wrong_tokens("no tokens"), no_json("not JSON");

std::string Hex(const Namespace& ns) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(ns.profile_digest.data()), ns.profile_digest.size()});
}

// What the struct holds, in the file's own words.
Json Read(const Namespace& ns) {
  return {{"model", ns.model},
          {"weights_digest", ns.weights_digest},
          {"dtype", std::string(DtypeName(ns.dtype))},
          {"layers", ns.layers},
          {"heads", ns.heads},
          {"head_dim", ns.head_dim},
          {"rope", ns.rope},
          {"tp_rank", ns.tp_rank},
          {"tp_size", ns.tp_size},
          {"pp_rank", ns.pp_rank},
          {"pp_size", ns.pp_size},
          {"tokens_per_block", ns.tokens_per_block},
          {"profile_digest", Hex(ns)},
          {"tenant_salt", ns.tenant_salt}};
}

void CheckNamespace(const std::string& text) {
  const fuzz::AllocationMeter meter;
  const absl::StatusOr<Namespace> ns = ParseNamespace("file", text);
  KVIST_HOLDS(meter.bytes() <= 1024 * text.size() + 65536, meter.bytes(), " bytes for ", text.size());
  if (!ns.ok()) {
    KVIST_HOLDS(absl::StartsWith(ns.status().message(), "file: "), ns.status().message());
    return (Json::accept(text) ? wrong_ns : no_json).Pass();
  }
  const absl::Status valid = ValidateNamespace(*ns);
  KVIST_HOLDS(valid.ok(), valid.message());
  const Json read = Read(*ns), written = Json::parse(text);
  for (const auto& [name, value] : written.items()) {
    KVIST_HOLDS(read.contains(name), "an unknown field is passed over: ", name);
    if (name != "profile_digest") {
      KVIST_HOLDS(read[name] == value, name, " is ", value.dump(), ", read as ", read[name].dump());
    } else if (value != "") {
      KVIST_HOLDS(value.is_string() && read[name] == absl::AsciiStrToLower(value.get<std::string>()), value.dump());
      with_profile.Pass();
    }
  }
  for (const char* name : {"model", "dtype", "layers", "heads", "head_dim"}) {
    KVIST_HOLDS(written.contains(name), name, " is needed");
  }
  const absl::StatusOr<Namespace> again = ParseNamespace("file", read.dump());
  KVIST_HOLDS(again.ok() && EncodeNamespace(*again) == EncodeNamespace(*ns), "written out, it is another namespace");
  ns_gate.Pass();
}

void CheckTokens(const std::string& text) {
  const fuzz::AllocationMeter meter;
  const absl::StatusOr<std::vector<uint32_t>> tokens = ParseTokens("file", text);
  KVIST_HOLDS(meter.bytes() <= 256 * text.size() + 65536, meter.bytes(), " bytes for ", text.size());
  if (!tokens.ok()) {
    KVIST_HOLDS(absl::StartsWith(tokens.status().message(), "file: "), tokens.status().message());
    return wrong_tokens.Pass();
  }
  KVIST_HOLDS(Json(*tokens) == Json::parse(text), "other tokens");
  tokens_gate.Pass();
}

// A file of keys is wrong, or says just these keys.
void CheckChain(const std::string& text) {
  const absl::StatusOr<std::vector<Key>> chain = ParseChain("file", text);
  if (!chain.ok()) {
    KVIST_HOLDS(absl::StartsWith(chain.status().message(), "file: "), chain.status().message());
    return;
  }
  const Json written = Json::parse(text);
  KVIST_HOLDS(written.size() == chain->size(), "another number of keys");
  for (size_t i = 0; i < chain->size(); ++i) {
    KVIST_HOLDS(absl::AsciiStrToLower(written[i].get<std::string>()) == (*chain)[i].Hex(), "another key");
  }
}

void Run(fuzz::Input input) {
  const bool list = input.Flag();
  const std::string text = input.RestText();
  if (!list) return CheckNamespace(text);
  CheckTokens(text);
  CheckChain(text);
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
