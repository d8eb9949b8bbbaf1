#include "services/node/namespaces.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvist {
namespace {

constexpr int kMaxDepth = 4;  // a field may be a small object; a deep text is an attack on the stack

// A field in which two namespaces differ; "" = the field is not there. Points into the two.
struct Difference {
  const std::string *name, *asked, *stored;
};

// At most one more than kMaxDifferences.
std::vector<Difference> Differences(const NamespaceFields& asked, const NamespaceFields& stored) {
  static const std::string absent;
  std::vector<Difference> differences;
  for (const auto& [name, value] : asked) {
    if (differences.size() > Namespaces::kMaxDifferences) return differences;
    const auto found = stored.find(name);
    if (found != stored.end() && found->second == value) continue;
    differences.push_back({&name, &value, found == stored.end() ? &absent : &found->second});
  }
  for (const auto& [name, value] : stored) {
    if (differences.size() > Namespaces::kMaxDifferences) return differences;
    if (!asked.count(name)) differences.push_back({&name, &absent, &value});
  }
  return differences;
}

bool SameModel(const NamespaceFields& one, const NamespaceFields& other) {
  const auto a = one.find("model"), b = other.find("model");
  return a != one.end() && b != other.end() && a->second == b->second;
}

// The text, or its first bytes and "...": never a part of a UTF-8 character, which protobuf would refuse to read.
std::string Cut(const std::string& text, size_t most) {
  if (text.size() <= most) return text;
  const auto continues = [&text](size_t at) { return (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80; };
  while (most > 0 && continues(most)) --most;
  return absl::StrCat(text.substr(0, most), "...");
}

std::string Shown(const std::string& text) { return Cut(text, Namespaces::kMaxShownBytes); }

size_t Bytes(const NamespaceFields& fields) {
  size_t bytes = 0;
  for (const auto& [name, value] : fields) bytes += name.size() + value.size();
  return bytes;
}

}  // namespace

absl::StatusOr<NamespaceFields> ParseNamespace(const std::string& text) {
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
  if (json.size() > Namespaces::kMaxFields) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_text has ", json.size(), " fields; at most ", Namespaces::kMaxFields, " are allowed"));
  }
  NamespaceFields fields;
  for (const auto& [name, value] : json.items()) {
    fields[name] = value.is_string() ? value.get<std::string>()
                                     : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return fields;
}

std::string NamespaceDifference(const NamespaceFields& stored, const NamespaceFields& asked) {
  std::vector<std::string> sentences;
  for (const Difference& field : Differences(asked, stored)) {
    if (sentences.size() == Namespaces::kMaxDifferences) {
      sentences.push_back("and more");
      break;
    }
    sentences.push_back(absl::StrCat(Shown(*field.name), " is ",
                                     field.stored->empty() ? "absent" : Shown(*field.stored), ", asked ",
                                     field.asked->empty() ? "none" : Shown(*field.asked)));
  }
  return Cut(absl::StrJoin(sentences, "; "), Namespaces::kMaxSentenceBytes);
}

void Namespaces::Trim() {
  while (entries_.size() > kMaxNamespaces || described_bytes_ > kMaxDescribedBytes) {
    const auto oldest = entries_.find(uses_.back());
    described_bytes_ -= oldest->second.fields_bytes;
    entries_.erase(oldest);
    uses_.pop_back();
  }
}

Namespaces::Entry& Namespaces::Touch(const Name& name) {
  const auto found = entries_.find(name);
  if (found != entries_.end()) {
    uses_.splice(uses_.begin(), uses_, found->second.use);
    return found->second;
  }
  uses_.push_front(name);
  entries_[name].use = uses_.begin();
  Trim();
  return entries_[name];
}

absl::Status Namespaces::Describe(TenantId tenant, const std::string& digest, const std::string& text) {
  if (digest.size() != 16) {
    return absl::InvalidArgumentError(absl::StrCat("namespace_digest has ", digest.size(), " bytes; it is 16 bytes"));
  }
  absl::StatusOr<NamespaceFields> parsed = ParseNamespace(text);
  if (!parsed.ok()) return parsed.status();
  const auto fields = std::make_shared<const NamespaceFields>(*std::move(parsed));
  const size_t fields_bytes = Bytes(*fields);
  std::lock_guard lock(mutex_);
  Entry& entry = Touch({tenant, digest});
  if (entry.fields != nullptr) return absl::OkStatus();
  entry.fields = fields;
  entry.fields_bytes = fields_bytes;
  described_bytes_ += fields_bytes;
  Trim();
  return absl::OkStatus();
}

void Namespaces::CountBlock(TenantId tenant, const std::string& digest) {
  std::lock_guard lock(mutex_);
  ++Touch({tenant, digest}).blocks;
}

std::shared_ptr<const NamespaceFields> Namespaces::Find(TenantId tenant, const std::string& digest) const {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(Name(tenant, digest));
  return found == entries_.end() ? nullptr : found->second.fields;
}

std::vector<v1::NearNamespace> Namespaces::Near(TenantId tenant, const std::string& digest,
                                                const NamespaceFields& asked) const {
  struct Candidate {
    bool other_model;
    size_t differences;
    uint64_t blocks;
    std::string digest;
    std::shared_ptr<const NamespaceFields> fields;
  };
  std::vector<Candidate> candidates;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      const auto& [whose, other] = name;
      if (whose != tenant || other == digest || entry.blocks == 0 || entry.fields == nullptr) continue;
      candidates.push_back({false, 0, entry.blocks, other, entry.fields});
    }
  }
  for (Candidate& candidate : candidates) {
    candidate.other_model = !SameModel(asked, *candidate.fields);
    candidate.differences = Differences(asked, *candidate.fields).size();
  }
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [](const Candidate& candidate) {
                                    return candidate.differences == 0 || candidate.differences > kMaxDifferences;
                                  }),
                   candidates.end());
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::make_tuple(a.other_model, a.differences, ~a.blocks, a.digest) <
           std::make_tuple(b.other_model, b.differences, ~b.blocks, b.digest);
  });
  std::vector<v1::NearNamespace> nearest;
  for (size_t i = 0; i < std::min(candidates.size(), kMaxNear); ++i) {
    v1::NearNamespace& near = nearest.emplace_back();
    near.set_digest(candidates[i].digest);
    near.set_blocks(candidates[i].blocks);
    for (const Difference& difference : Differences(asked, *candidates[i].fields)) {
      v1::FieldDifference& field = *near.add_fields();
      field.set_name(Shown(*difference.name));
      field.set_asked(Shown(*difference.asked));
      field.set_stored(Shown(*difference.stored));
    }
  }
  return nearest;
}

std::vector<Namespaces::Summary> Namespaces::Largest(size_t most) const {
  std::vector<Summary> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, entry] : entries_) all.push_back({name.first, name.second, entry.blocks, entry.fields});
  }
  const size_t shown = std::min(most, all.size());
  std::partial_sort(all.begin(), all.begin() + shown, all.end(),
                    [](const Summary& a, const Summary& b) { return a.blocks > b.blocks; });
  all.resize(shown);
  return all;
}

size_t Namespaces::size() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace kvist
