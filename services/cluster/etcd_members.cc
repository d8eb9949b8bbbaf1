#include "services/cluster/etcd_members.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/records.h"

namespace kvist {
namespace {

constexpr size_t kMaxRecords = 4 * kMaxViewNodes;  // what others write under our prefix cannot fill our memory
constexpr size_t kMaxRecordBytes = 16 << 10;
constexpr size_t kMaxSentences = 4;
constexpr uint64_t kMaxBase = uint64_t{1} << 62;  // base + revision stays a number of 64 bits

// What others wrote, fit to stand in a sentence.
std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, 64)), "\"");
}

absl::StatusOr<Node> ReadRecord(const std::string& id, const std::string& value) {
  if (value.size() > kMaxRecordBytes) {
    return absl::InvalidArgumentError(absl::StrCat("it has ", value.size(), " bytes, more than ", kMaxRecordBytes));
  }
  absl::StatusOr<Node> node = RecordFromJson(value);
  if (!node.ok()) return node;
  if (node->id.value != id) return absl::InvalidArgumentError(absl::StrCat("it names node ", Quoted(node->id.value)));
  if (node->address.port == 0) return absl::InvalidArgumentError("its address has port 0, where nobody can reach it");
  return node;
}

}  // namespace

EtcdMembers::EtcdMembers(const std::string& cluster, absl::Duration hold)
    : prefix_(absl::StrCat("/kvist/", cluster, "/")), hold_(hold) {}

bool EtcdMembers::NodeIdOf(const std::string& key, std::string* id) const {
  const std::string nodes = prefix_ + "nodes/";
  if (key.compare(0, nodes.size(), nodes) != 0) return false;
  *id = key.substr(nodes.size());
  return true;
}

void EtcdMembers::SetSelf(const Node& self, int64_t revision) {
  self_ = self;
  self_revision_ = revision;
}

void EtcdMembers::ForgetSelf() {
  if (!self_) return;
  const auto found = members_.find(self_->id.value);
  if (found != members_.end() && !found->second.stands()) members_.erase(found);
  self_.reset();
}

void EtcdMembers::PutBase(const EtcdKeyValue& entry) {
  base_mod_revision_ = entry.mod_revision;
  base_problem_.clear();
  if (absl::SimpleAtoi(entry.value, &base_) && base_ <= kMaxBase) return;
  base_ = 0;
  base_problem_ = absl::StrCat(BaseKey(), " holds ", Quoted(entry.value), ", which is no number of views");
}

void EtcdMembers::Put(const EtcdKeyValue& entry) {
  if (entry.key == BaseKey()) return PutBase(entry);
  std::string id;
  if (!NodeIdOf(entry.key, &id)) return;
  if (members_.size() >= kMaxRecords && members_.count(id) == 0) return;
  departed_.erase(id);
  problems_.erase(id);
  Member& member = members_[id];
  member = Member{entry, std::nullopt};
  absl::StatusOr<Node> node = ReadRecord(id, entry.value);
  if (node.ok()) {
    member.node = *std::move(node);
  } else {
    problems_[id] =
        absl::StrCat("the record ", Quoted(entry.key), " is left out: ", std::string(node.status().message()));
  }
}

void EtcdMembers::Delete(const EtcdKeyValue& entry, absl::Time now) {
  if (entry.key == BaseKey()) {
    base_ = 0;
    base_mod_revision_ = 0;
    base_problem_.clear();
    return;
  }
  std::string id;
  if (!NodeIdOf(entry.key, &id)) return;
  problems_.erase(id);
  const auto found = members_.find(id);
  if (found == members_.end() || !found->second.stands()) return;
  Member& member = found->second;
  if (IsOwn(id) && member.node) {
    member.held_until = now + hold_;
    return;
  }
  const bool counts = member.node && member.node->state != NodeState::kDraining && departed_.size() < kMaxRecords;
  if (counts) departed_[id] = {now, std::move(member)};
  members_.erase(found);
}

void EtcdMembers::Apply(const EtcdListing& listing, absl::Time now) {
  const bool wiped = revision_ != 0 && (listing.cluster_id != cluster_id_ || listing.revision < revision_);
  cluster_id_ = listing.cluster_id;
  revision_ = listing.revision;
  base_ = 0;
  base_mod_revision_ = 0;
  base_problem_.clear();
  written_revision_ = 0;
  for (const EtcdKeyValue& entry : listing.entries) {
    Put(entry);
    written_revision_ = std::max(written_revision_, entry.mod_revision);
  }
  HoldMissing(listing, wiped, now);
}

void EtcdMembers::HoldMissing(const EtcdListing& listing, bool wiped, absl::Time now) {
  std::set<std::string> listed;
  for (const EtcdKeyValue& entry : listing.entries) {
    std::string id;
    if (NodeIdOf(entry.key, &id)) listed.insert(id);
  }
  for (auto each = members_.begin(); each != members_.end();) {
    auto& [id, member] = *each;
    if (listed.count(id) != 0) {
      ++each;
      continue;
    }
    problems_.erase(id);
    const bool announced = member.node && member.node->state == NodeState::kDraining && !wiped && !IsOwn(id);
    if (!member.node || announced) {
      each = members_.erase(each);
    } else {
      member.held_until = now + hold_;
      ++each;
    }
  }
}

void EtcdMembers::Apply(const std::vector<EtcdEvent>& events, absl::Time now) {
  const int64_t known = revision_;  // one revision may have several events
  for (const EtcdEvent& event : events) {
    if (event.entry.mod_revision <= known) continue;
    if (event.deleted) {
      Delete(event.entry, now);
    } else {
      Put(event.entry);
    }
    revision_ = std::max(revision_, event.entry.mod_revision);
    written_revision_ = revision_;
  }
  HoldIfMostVanished(now);
}

// Leases that end for one cause (etcd cut off from many nodes) end within a third of a lease of each other, and each is
// a change of its own.
void EtcdMembers::HoldIfMostVanished(absl::Time now) {
  for (auto each = departed_.begin(); each != departed_.end();) {
    each = each->second.at + hold_ / 2 <= now ? departed_.erase(each) : std::next(each);
  }
  size_t left = 0, gone = departed_.size();
  for (const auto& [id, member] : members_) {
    if (member.node && member.stands()) ++left;
    if (IsOwn(id) && !member.stands()) ++gone;
  }
  if (left + gone < 3 || gone <= left) return;
  for (auto& [id, departure] : departed_) {
    departure.member.held_until = now + hold_;
    members_[id] = std::move(departure.member);
  }
  departed_.clear();
}

void EtcdMembers::Tick(absl::Time now) {
  for (auto each = members_.begin(); each != members_.end();) {
    each = each->second.held_until <= now && !IsOwn(each->first) ? members_.erase(each) : std::next(each);
  }
}

absl::Time EtcdMembers::NextTick() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, member] : members_) {
    if (!IsOwn(id)) next = std::min(next, member.held_until);
  }
  return next;
}

bool EtcdMembers::own_record_is_gone() const {
  if (!self_ || revision_ < self_revision_) return false;
  const EtcdKeyValue* entry = Entry(self_->id);
  if (entry == nullptr) return true;
  const std::optional<Node>& node = members_.at(self_->id.value).node;
  return !node || node->incarnation != self_->incarnation;
}

const EtcdKeyValue* EtcdMembers::Entry(const NodeId& id) const {
  const auto found = members_.find(id.value);
  return found == members_.end() || !found->second.stands() ? nullptr : &found->second.entry;
}

uint64_t EtcdMembers::GreatestIncarnation(const NodeId& id) const {
  const auto found = members_.find(id.value);
  return found == members_.end() || !found->second.node ? 0 : found->second.node->incarnation;
}

// Of two records with one address (a node that took another name) the one that stands counts, or the later.
std::vector<Node> EtcdMembers::Nodes() const {
  const auto rank = [](const Member& member) { return std::pair(member.stands(), member.entry.mod_revision); };
  std::map<std::string, const Member*> by_address;
  for (const auto& [id, member] : members_) {
    if (!member.node) continue;
    const Member*& at = by_address[member.node->address.ToString()];
    if (at == nullptr || rank(*at) < rank(member)) at = &member;
  }
  std::vector<Node> nodes;
  for (const auto& [id, member] : members_) {
    if (nodes.size() == kMaxViewNodes) break;
    if (member.node && by_address[member.node->address.ToString()] == &member) nodes.push_back(*member.node);
  }
  return nodes;
}

std::optional<View> EtcdMembers::TakeView() {
  if (revision_ == 0 || number() <= last_.number.value) return std::nullopt;
  View view{ViewNumber{number()}, Nodes()};
  if (view.nodes.empty()) return std::nullopt;
  if (view.nodes == last_.nodes && base_ == last_base_) {
    // The same again, written since (a writer that missed its answer): whoever listed meanwhile has a number as late.
    view.number.value = base_ + static_cast<uint64_t>(written_revision_);
    if (view.number.value <= last_.number.value) return std::nullopt;
  }
  last_ = view;
  last_base_ = base_;
  return view;
}

std::optional<uint64_t> EtcdMembers::WantedBase() const {
  if (revision_ == 0 || number() > last_.number.value) return std::nullopt;
  if (number() < last_.number.value) return last_.number.value;
  const std::vector<Node> nodes = Nodes();
  if (nodes.empty() || nodes == last_.nodes) return std::nullopt;
  return base_;
}

std::string EtcdMembers::Problems() const {
  std::vector<std::string> sentences;
  if (!base_problem_.empty()) sentences.push_back(base_problem_);
  for (const auto& [id, sentence] : problems_) {
    if (sentences.size() < kMaxSentences) sentences.push_back(sentence);
  }
  const size_t all = problems_.size() + (base_problem_.empty() ? 0 : 1);
  if (all > sentences.size()) sentences.push_back(absl::StrCat(all - sentences.size(), " more"));
  if (members_.size() >= kMaxViewNodes) {
    sentences.push_back(absl::StrCat("there are ", members_.size(), " records, a view holds ", kMaxViewNodes));
  }
  return absl::StrJoin(sentences, "; ");
}

}  // namespace kvist
