#include "services/ctl/input_files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvist {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::StatusOr<Json> ParseJson(const std::string& path, absl::string_view text) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Wrong(path, "not JSON");
  return json;
}

// Takes fields out of an object; what stays behind is unknown.
class Fields {
 public:
  explicit Fields(Json object) : object_(std::move(object)) {}

  std::string Text(const char* name, bool needed) {
    const std::optional<Json> value = Take(name, needed);
    if (!value) return "";
    if (value->is_string()) return value->get<std::string>();
    problems.push_back(absl::StrCat("\"", name, "\" is not a string"));
    return "";
  }
  uint32_t Number(const char* name, bool needed, uint32_t otherwise) {
    const std::optional<Json> value = Take(name, needed);
    if (!value) return otherwise;
    if (value->is_number_unsigned() && value->get<uint64_t>() <= UINT32_MAX) return value->get<uint32_t>();
    problems.push_back(absl::StrCat("\"", name, "\" is not a whole number of 0 to 4294967295"));
    return otherwise;
  }
  void RefuseRest() {
    for (const auto& [name, value] : object_.items()) problems.push_back(absl::StrCat("unknown field \"", name, "\""));
  }

  std::vector<std::string> problems;

 private:
  // A field that is null is there, with a value that is wrong.
  std::optional<Json> Take(const char* name, bool needed) {
    const auto found = object_.find(name);
    if (found == object_.end()) {
      if (needed) problems.push_back(absl::StrCat("\"", name, "\" is missing"));
      return std::nullopt;
    }
    Json value = *found;
    object_.erase(found);
    return value;
  }

  Json object_;
};

// False if it is not exactly as many bytes, two digits each.
template <size_t kBytes>
bool ReadHex(const std::string& hex, std::array<uint8_t, kBytes>* out) {
  if (hex.size() != 2 * kBytes || hex.find_first_not_of("0123456789abcdefABCDEF") != hex.npos) return false;
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), out->begin());
  return true;
}

void ReadProfileDigest(Fields* fields, Namespace* ns) {
  const std::string hex = fields->Text("profile_digest", false);
  if (hex.empty()) return;
  if (!ReadHex(hex, &ns->profile_digest)) fields->problems.push_back("\"profile_digest\" is not 32 hex digits");
}

size_t BytesPerToken(const BlockShape& shape) { return 2 * size_t{shape.layers} * shape.heads * shape.RowBytes(); }

}  // namespace

absl::StatusOr<Namespace> ParseNamespace(const std::string& path, absl::string_view text) {
  absl::StatusOr<Json> json = ParseJson(path, text);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return Wrong(path, "not a JSON object");
  Fields fields(*std::move(json));
  Namespace ns;
  ns.model = fields.Text("model", true);
  ns.weights_digest = fields.Text("weights_digest", false);
  const std::string dtype_name = fields.Text("dtype", true);
  ns.layers = fields.Number("layers", true, 0);
  ns.heads = fields.Number("heads", true, 0);
  ns.head_dim = fields.Number("head_dim", true, 0);
  ns.rope = fields.Text("rope", false);
  ns.tp_rank = fields.Number("tp_rank", false, ns.tp_rank);
  ns.tp_size = fields.Number("tp_size", false, ns.tp_size);
  ns.pp_rank = fields.Number("pp_rank", false, ns.pp_rank);
  ns.pp_size = fields.Number("pp_size", false, ns.pp_size);
  ns.tokens_per_block = fields.Number("tokens_per_block", false, ns.tokens_per_block);
  ns.tenant_salt = fields.Text("tenant_salt", false);
  ReadProfileDigest(&fields, &ns);
  fields.RefuseRest();
  if (const absl::StatusOr<Dtype> dtype = ParseDtype(dtype_name); dtype.ok()) {
    ns.dtype = *dtype;
  } else if (!dtype_name.empty() || fields.problems.empty()) {  // a missing one has been named above
    fields.problems.push_back(std::string(dtype.status().message()));
  }
  if (absl::Status valid = ValidateNamespace(ns); !valid.ok() && fields.problems.empty()) {
    fields.problems.push_back(std::string(valid.message()));
  }
  if (!fields.problems.empty()) return Wrong(path, absl::StrJoin(fields.problems, "; "));
  return ns;
}

absl::StatusOr<std::vector<uint32_t>> ParseTokens(const std::string& path, absl::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(path, text);
  if (!json.ok()) return json.status();
  if (!json->is_array()) return Wrong(path, "not a JSON list of token ids");
  std::vector<uint32_t> tokens;
  tokens.reserve(json->size());
  for (const Json& token : *json) {
    if (!token.is_number_unsigned() || token.get<uint64_t>() > UINT32_MAX) {
      return Wrong(path, absl::StrCat("token ", tokens.size(), " is no whole number of 0 to 4294967295"));
    }
    tokens.push_back(token.get<uint32_t>());
  }
  return tokens;
}

absl::StatusOr<std::vector<Key>> ParseChain(const std::string& path, absl::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(path, text);
  if (!json.ok()) return json.status();
  if (!json->is_array()) return Wrong(path, "not a JSON list of keys in hex");
  std::vector<Key> chain(json->size());
  for (size_t i = 0; i < chain.size(); ++i) {
    const Json& key = (*json)[i];
    if (!key.is_string() || !ReadHex(key.get_ref<const std::string&>(), &chain[i].bytes)) {
      return Wrong(path, absl::StrCat("key ", i, " is not 64 hex digits"));
    }
  }
  return chain;
}

absl::StatusOr<Namespace> ReadNamespaceFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadText(path);
  return text.ok() ? ParseNamespace(path, *text) : text.status();
}

absl::StatusOr<std::vector<uint32_t>> ReadTokensFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadText(path);
  return text.ok() ? ParseTokens(path, *text) : text.status();
}

absl::StatusOr<std::vector<Key>> ReadChainFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadText(path);
  return text.ok() ? ParseChain(path, *text) : text.status();
}

absl::StatusOr<std::shared_ptr<const OpenProfile>> ReadProfileFile(const std::string& path) {
  absl::StatusOr<std::string> file = ReadText(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::shared_ptr<const OpenProfile>> profile = OpenProfile::Open(*std::move(file));
  if (profile.ok()) return profile;
  return absl::Status(profile.status().code(), absl::StrCat(path, ": ", profile.status().message()));
}

absl::Status WriteProfileFile(const std::string& path, const OpenProfile& profile) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(profile.file().data(), static_cast<std::streamsize>(profile.file().size()));
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  return absl::OkStatus();
}

absl::StatusOr<Kv> ReadKvFile(const std::string& path, const BlockShape& shape, size_t least_tokens) {
  std::error_code failed;
  const uintmax_t size_bytes = std::filesystem::file_size(path, failed);
  if (failed) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", failed.message()));
  const size_t token_bytes = BytesPerToken(shape);
  if (size_bytes % token_bytes != 0) {
    return Wrong(path, absl::StrCat(size_bytes, " bytes are no whole number of tokens: the namespace says ",
                                    token_bytes, " bytes each"));
  }
  Kv kv;
  kv.tokens = size_bytes / token_bytes;
  if (kv.tokens < least_tokens) {
    return Wrong(path, absl::StrCat("holds ", kv.tokens, " tokens; the prompt's full blocks have ", least_tokens));
  }
  kv.values.resize(size_bytes / sizeof(uint16_t));
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(kv.values.data()), static_cast<std::streamsize>(size_bytes));
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  return kv;
}

absl::Status WriteKvFile(const std::string& path, const BlockShape& shape, const Kv& kv, size_t tokens) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  const size_t row = kv.tokens * shape.RowUnits(), kept_bytes = tokens * shape.RowBytes();
  for (size_t first = 0; first < kv.values.size(); first += row) {
    file.write(reinterpret_cast<const char*>(kv.values.data() + first), static_cast<std::streamsize>(kept_bytes));
  }
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  return absl::OkStatus();
}

}  // namespace kvist
