#include "services/cluster/static_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/cluster/byte_size.h"

namespace kvist {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kPollInterval = absl::Milliseconds(5);
constexpr int kMaxReadings = 100;  // of files that change meanwhile

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Reads the fields of one JSON object and collects what is wrong with them, each under the object's name.
class Fields {
 public:
  Fields(const Json& object, std::string name, std::vector<std::string>* problems)
      : object_(object), name_(std::move(name)), problems_(problems) {}

  void Complain(absl::string_view what) {
    problems_->push_back(name_.empty() ? std::string(what) : absl::StrCat(name_, ": ", what));
  }

  const Json* Find(const char* field, bool required) {
    const auto found = object_.find(field);
    if (found != object_.end()) return &*found;
    if (required) Complain(absl::StrCat("\"", field, "\" is missing"));
    return nullptr;
  }

  std::string Text(const char* field) {
    const Json* value = Find(field, true);
    if (value == nullptr) return "";
    if (value->is_string()) return value->get<std::string>();
    Complain(absl::StrCat("\"", field, "\" is not a string"));
    return "";
  }

  void RefuseOthers(std::initializer_list<absl::string_view> known) {
    for (const auto& [field, value] : object_.items()) {
      if (std::find(known.begin(), known.end(), field) == known.end()) {
        Complain(absl::StrCat("unknown field \"", field, "\" (known: ", absl::StrJoin(known, ", "), ")"));
      }
    }
  }

 private:
  const Json& object_;
  const std::string name_;
  std::vector<std::string>* const problems_;
};

uint64_t ReadCapacity(Fields& fields) {
  const Json* value = fields.Find("capacity", true);
  if (value == nullptr) return 0;
  uint64_t capacity_bytes = 0;
  if (value->is_number_unsigned()) {
    capacity_bytes = value->get<uint64_t>();
  } else if (value->is_string()) {
    const absl::StatusOr<uint64_t> parsed = ParseByteSize(value->get<std::string>());
    if (!parsed.ok()) {
      fields.Complain(absl::StrCat("capacity ", parsed.status().message()));
      return 0;
    }
    capacity_bytes = *parsed;
  } else {
    fields.Complain("\"capacity\" is neither a size such as \"256MiB\" nor a number of bytes");
    return 0;
  }
  if (capacity_bytes == 0) fields.Complain("capacity is 0");
  return capacity_bytes;
}

double ReadWeight(Fields& fields) {
  const Json* value = fields.Find("weight", false);
  if (value == nullptr) return 1;
  if (value->is_number()) return value->get<double>();
  fields.Complain("\"weight\" is not a number");
  return 1;
}

Node ReadNode(const Json& object, size_t position, std::vector<std::string>* problems) {
  const auto id = object.find("id");
  const std::string name = id != object.end() && id->is_string() && !id->get<std::string>().empty()
                               ? absl::StrCat("node \"", id->get<std::string>(), "\"")
                               : absl::StrCat("node ", position);
  Fields fields(object, name, problems);
  fields.RefuseOthers({"id", "address", "weight", "capacity"});
  Node node;
  node.id.value = fields.Text("id");
  const std::string address = fields.Text("address");
  if (absl::StatusOr<Address> parsed = ParseAddress(address); parsed.ok()) {
    node.address = *std::move(parsed);
  } else {
    node.address.host = "?";  // said here, with the text; ValidateView shall not say it again
    if (!address.empty()) fields.Complain(absl::StrCat("address ", parsed.status().message()));
  }
  node.weight = ReadWeight(fields);
  node.capacity_bytes = ReadCapacity(fields);
  return node;
}

View ReadView(const Json& root, std::vector<std::string>* problems) {
  View view;
  Fields fields(root, "", problems);
  fields.RefuseOthers({"view", "nodes"});
  view.number.value = 1;  // a number that is missing or of another type is said here, not by ValidateView as well
  if (const Json* number = fields.Find("view", true); number != nullptr) {
    if (number->is_number_unsigned()) {
      view.number.value = number->get<uint64_t>();
    } else {
      fields.Complain("\"view\" is not a whole number above 0");
    }
  }
  const Json* nodes = fields.Find("nodes", true);
  if (nodes == nullptr || !nodes->is_array()) {
    if (nodes != nullptr) fields.Complain("\"nodes\" is not a list");
    return view;
  }
  for (size_t i = 0; i < nodes->size(); ++i) {
    if ((*nodes)[i].is_object()) {
      view.nodes.push_back(ReadNode((*nodes)[i], i, problems));
    } else {
      problems->push_back(absl::StrCat("node ", i, ": is not an object"));
    }
  }
  return view;
}

// An address file: the address, and the how-manieth of its node it is.
struct Published {
  Address address;
  uint64_t count = 1;
};

std::optional<Published> ParsePublished(const std::string& text) {
  const std::vector<std::string> words = absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  if (words.empty() || words.size() > 2) return std::nullopt;
  const absl::StatusOr<Address> address = ParseAddress(words[0]);
  Published published;
  if (!address.ok() || address->port == 0) return std::nullopt;
  if (words.size() == 2 && !absl::SimpleAtoi(words[1], &published.count)) return std::nullopt;
  published.address = *address;
  return published;
}

// The contents of everything that a view is made of.
struct Texts {
  std::string file;
  std::map<std::string, std::string> published;  // by path

  friend bool operator==(const Texts& a, const Texts& b) { return a.file == b.file && a.published == b.published; }
};

absl::StatusOr<Texts> ReadTexts(const std::string& path) {
  std::optional<std::string> file = ReadFile(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read cluster file ", path, ": ", std::strerror(errno)));
  Texts texts{*std::move(file), {}};
  std::error_code failed;
  std::filesystem::directory_iterator folder(path + ".d", failed);
  for (; !failed && folder != std::filesystem::directory_iterator(); folder.increment(failed)) {
    if (folder->path().extension() != ".address") continue;
    if (std::optional<std::string> text = ReadFile(folder->path())) texts.published[folder->path()] = *std::move(text);
  }
  return texts;
}

absl::StatusOr<View> ParseNamed(const std::string& path, const std::string& text) {
  absl::StatusOr<View> view = ParseClusterFile(text);
  if (view.ok()) return view;
  return absl::InvalidArgumentError(absl::StrCat("cluster file ", path, ": ", view.status().message()));
}

absl::Status WriteFailed(const std::string& path, const std::string& why) {
  return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", why));
}

// By a file of another name and a rename: a reader sees all of the address or none.
absl::Status Publish(const std::string& path, const NodeId& id, const Address& bound, const std::string& text) {
  if (bound.port == 0) {
    return absl::InvalidArgumentError(absl::StrCat("node \"", id.value, "\" cannot publish port 0: bind first"));
  }
  const std::string unfinished = absl::StrCat(path, ".", getpid());
  std::error_code failed;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), failed);
  if (failed) return WriteFailed(path, failed.message());
  std::ofstream file(unfinished, std::ios::binary | std::ios::trunc);
  file << text << "\n";
  file.close();
  if (!file) return WriteFailed(unfinished, std::strerror(errno));
  std::filesystem::rename(unfinished, path, failed);
  return failed ? WriteFailed(path, failed.message()) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<View> ParseClusterFile(absl::string_view json) {
  const Json root = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return absl::InvalidArgumentError("not a JSON object {\"view\": ..., \"nodes\": [...]}");
  std::vector<std::string> problems;
  const View view = ReadView(root, &problems);
  if (absl::Status valid = ValidateView(view); !valid.ok()) {
    const bool said = view.nodes.empty() && !problems.empty();
    if (!said) problems.push_back(std::string(valid.message()));
  }
  if (problems.empty()) return view;
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

absl::StatusOr<View> ReadClusterFile(const std::string& path) {
  const std::optional<std::string> text = ReadFile(path);
  if (!text) return absl::NotFoundError(absl::StrCat("cannot read cluster file ", path, ": ", std::strerror(errno)));
  return ParseNamed(path, *text);
}

absl::StatusOr<ClusterFiles> ReadClusterFiles(const std::string& path) {
  // Two readings that agree are one moment: else one file could be of before a change and another of after it, and the
  // sum of their counts the number of a third state.
  absl::StatusOr<Texts> texts = ReadTexts(path);
  for (int tries = 0; texts.ok(); ++tries) {
    absl::StatusOr<Texts> again = ReadTexts(path);
    if (again.ok() && *again == *texts) break;
    if (tries == kMaxReadings)
      return absl::UnavailableError(absl::StrCat(path, " and its addresses change all the time"));
    texts = std::move(again);
  }
  if (!texts.ok()) return texts.status();
  absl::StatusOr<View> file = ParseNamed(path, texts->file);
  if (!file.ok()) return file.status();
  ClusterFiles files{*file, *std::move(file), {}};
  std::map<std::string, Address> addresses;
  for (const auto& [name, text] : texts->published) {
    const std::optional<Published> published = ParsePublished(text);
    if (!published) continue;
    files.view.number.value += published->count;
    addresses[name] = published->address;
  }
  for (Node& node : files.view.nodes) {
    if (node.address.port != 0) continue;
    const auto found = addresses.find(AddressFile(path, node.id));
    if (found == addresses.end()) {
      files.missing.push_back(AddressFile(path, node.id));
    } else {
      node.address = found->second;
    }
  }
  return files;
}

std::string AddressFile(const std::string& cluster_file, const NodeId& id) {
  return absl::StrCat(cluster_file, ".d/", id.value, ".address");
}

std::string HttpAddressFile(const std::string& cluster_file, const NodeId& id) {
  return absl::StrCat(cluster_file, ".d/", id.value, ".http");
}

absl::Status PublishAddress(const std::string& cluster_file, const NodeId& id, const Address& bound) {
  const std::string path = AddressFile(cluster_file, id);
  const std::optional<std::string> text = ReadFile(path);
  const std::optional<Published> last = text ? ParsePublished(*text) : std::nullopt;
  const uint64_t count = !last ? 1 : last->count + (last->address == bound ? 0 : 1);
  return Publish(path, id, bound, absl::StrCat(bound.ToString(), " ", count));
}

absl::Status PublishHttpAddress(const std::string& cluster_file, const NodeId& id, const Address& bound) {
  return Publish(HttpAddressFile(cluster_file, id), id, bound, bound.ToString());
}

absl::StatusOr<View> LoadView(const std::string& cluster_file, absl::Time deadline, const Clock& clock) {
  while (true) {
    absl::StatusOr<ClusterFiles> files = ReadClusterFiles(cluster_file);
    if (!files.ok()) return files.status();
    const auto& nodes = files->view.nodes;
    if (files->missing.empty()) return std::move(files->view);
    if (clock() >= deadline) {
      if (files->missing.size() < nodes.size()) return std::move(files->view);
      return absl::UnavailableError(absl::StrCat("no address published in ", absl::StrJoin(files->missing, ", "),
                                                 ": is kvistd running for this node?"));
    }
    absl::SleepFor(kPollInterval);
  }
}

}  // namespace kvist
