#include "services/node/namespaces.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvist {
namespace {

using Fields = std::map<std::string, std::string>;  // values as JSON, strings without their quotes

constexpr int kMaxDepth = 4;  // a field may be a small object; a deep text is an attack on the stack

absl::StatusOr<Fields> ParseFields(const std::string& text) {
  if (text.size() > Namespaces::kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("namespace_text has ", text.size(), " bytes; at most ",
                                                   Namespaces::kMaxTextBytes, " are allowed"));
  }
  bool too_deep = false;
  const auto json = nlohmann::json::parse(
      text,
      [&too_deep](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        too_deep = too_deep || depth > kMaxDepth;
        return depth <= kMaxDepth;
      },
      /*allow_exceptions=*/false);
  if (too_deep || !json.is_object()) {
    return absl::InvalidArgumentError("namespace_text is no JSON object of a namespace's fields");
  }
  Fields fields;
  for (const auto& [name, value] : json.items()) {
    fields[name] = value.is_string() ? value.get<std::string>()
                                     : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return fields;
}

// The fields in which they differ, at most one more than kMaxDifferences. A missing field has no value.
std::vector<v1::FieldDifference> Differences(const Fields& asked, const Fields& stored) {
  std::vector<v1::FieldDifference> differences;
  const auto add = [&](const std::string& name, const std::string& asked_value, const std::string& stored_value) {
    v1::FieldDifference difference;
    difference.set_name(name);
    difference.set_asked(asked_value);
    difference.set_stored(stored_value);
    if (differences.size() <= Namespaces::kMaxDifferences) differences.push_back(std::move(difference));
  };
  for (const auto& [name, value] : asked) {
    const auto found = stored.find(name);
    if (found == stored.end() || found->second != value) add(name, value, found == stored.end() ? "" : found->second);
  }
  for (const auto& [name, value] : stored) {
    if (!asked.count(name)) add(name, "", value);
  }
  return differences;
}

bool SameModel(const Fields& one, const Fields& other) {
  const auto a = one.find("model"), b = other.find("model");
  return a != one.end() && b != other.end() && a->second == b->second;
}

}  // namespace

Namespaces::Entry& Namespaces::Touch(const std::string& digest) {
  const auto found = entries_.find(digest);
  if (found != entries_.end()) {
    uses_.splice(uses_.begin(), uses_, found->second.use);
    return found->second;
  }
  if (entries_.size() == kMaxNamespaces) {
    entries_.erase(uses_.back());
    uses_.pop_back();
  }
  uses_.push_front(digest);
  Entry& entry = entries_[digest];
  entry.use = uses_.begin();
  return entry;
}

absl::Status Namespaces::Describe(const std::string& digest, const std::string& text) {
  if (digest.size() != 16) {
    return absl::InvalidArgumentError(absl::StrCat("namespace_digest has ", digest.size(), " bytes; it is 16 bytes"));
  }
  if (absl::Status status = ParseFields(text).status(); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  Touch(digest).text = text;
  return absl::OkStatus();
}

void Namespaces::CountBlock(const std::string& digest) {
  std::lock_guard lock(mutex_);
  ++Touch(digest).blocks;
}

absl::StatusOr<std::vector<v1::NearNamespace>> Namespaces::Near(const std::string& digest,
                                                                const std::string& text) const {
  absl::StatusOr<Fields> asked = ParseFields(text);
  if (!asked.ok()) return asked.status();
  std::vector<std::pair<std::string, Entry>> described;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [other, entry] : entries_) {
      if (other != digest && entry.blocks > 0 && !entry.text.empty()) described.emplace_back(other, entry);
    }
  }
  std::vector<std::pair<bool, v1::NearNamespace>> near;  // with whether the model is another
  for (const auto& [other, entry] : described) {
    const absl::StatusOr<Fields> stored = ParseFields(entry.text);
    if (!stored.ok()) continue;
    const std::vector<v1::FieldDifference> differences = Differences(*asked, *stored);
    if (differences.empty() || differences.size() > kMaxDifferences) continue;
    v1::NearNamespace candidate;
    candidate.set_digest(other);
    candidate.set_blocks(entry.blocks);
    for (const v1::FieldDifference& difference : differences) *candidate.add_fields() = difference;
    near.emplace_back(!SameModel(*asked, *stored), std::move(candidate));
  }
  std::sort(near.begin(), near.end(), [](const auto& a, const auto& b) {
    return std::make_tuple(a.first, a.second.fields_size(), ~a.second.blocks(), a.second.digest()) <
           std::make_tuple(b.first, b.second.fields_size(), ~b.second.blocks(), b.second.digest());
  });
  std::vector<v1::NearNamespace> nearest;
  for (size_t i = 0; i < std::min(near.size(), kMaxNear); ++i) nearest.push_back(std::move(near[i].second));
  return nearest;
}

std::string Namespaces::Difference(const std::string& stored_digest, const std::string& asked_digest) const {
  std::string stored_text, asked_text;
  {
    std::lock_guard lock(mutex_);
    const auto stored = entries_.find(stored_digest), asked = entries_.find(asked_digest);
    if (stored == entries_.end() || asked == entries_.end()) return "";
    stored_text = stored->second.text;
    asked_text = asked->second.text;
  }
  const absl::StatusOr<Fields> stored = ParseFields(stored_text), asked = ParseFields(asked_text);
  if (!stored.ok() || !asked.ok()) return "";
  std::vector<std::string> sentences;
  const std::vector<v1::FieldDifference> differences = Differences(*asked, *stored);
  for (const v1::FieldDifference& field : differences) {
    sentences.push_back(absl::StrCat(field.name(), " is ", field.stored().empty() ? "absent" : field.stored(),
                                     ", asked ", field.asked().empty() ? "none" : field.asked()));
  }
  if (sentences.size() > kMaxDifferences) sentences.back() = "and more";
  return absl::StrJoin(sentences, "; ");
}

size_t Namespaces::size() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace kvist
