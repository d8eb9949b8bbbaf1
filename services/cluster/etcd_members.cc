#include "services/cluster/etcd_members.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/records.h"

namespace kvist {
namespace {

// Beyond these etcd, or whoever wrote the base, is mistaken; their sum still is a view's number.
constexpr uint64_t kMaxBase = uint64_t{1} << 63;
constexpr int64_t kMaxRevision = int64_t{1} << 62;

int64_t PossibleRevision(int64_t revision) { return std::clamp<int64_t>(revision, 0, kMaxRevision); }

}  // namespace

EtcdMembers::EtcdMembers(const std::string& cluster, absl::Duration hold)
    : prefix_(absl::StrCat("/kvist/", cluster, "/")), hold_(hold) {}

bool EtcdMembers::NodeIdOf(const std::string& key, std::string* id) const {
  const std::string nodes = prefix_ + "nodes/";
  if (key.compare(0, nodes.size(), nodes) != 0) return false;
  *id = key.substr(nodes.size());
  return true;
}

void EtcdMembers::Put(const EtcdKeyValue& entry) {
  if (entry.key == BaseKey()) {
    uint64_t base = 0;
    problems_.erase(entry.key);
    if (absl::SimpleAtoi(entry.value, &base) && base <= kMaxBase) {
      base_ = std::max(base_, base);
    } else {
      problems_[entry.key] = absl::StrCat(entry.key, " is left out: it is no number up to ", kMaxBase);
    }
    base_mod_revision_ = entry.mod_revision;
    if (base_ >= wanted_base_) wanted_base_ = 0;
    return;
  }
  std::string id;
  if (!NodeIdOf(entry.key, &id)) return;
  Member& member = members_[id];
  member = Member{std::nullopt, entry};
  problems_.erase(id);
  absl::StatusOr<Node> node = RecordFromJson(entry.value);
  if (!node.ok()) {
    problems_[id] = absl::StrCat("the record ", entry.key, " is left out: ", std::string(node.status().message()));
  } else if (node->id.value != id) {
    problems_[id] = absl::StrCat("the record ", entry.key, " is left out: it names node \"", node->id.value, "\"");
  } else {
    incarnations_[id] = std::max(incarnations_[id], node->incarnation);
    member.node = *std::move(node);
  }
}

size_t EtcdMembers::Standing() const {
  return std::count_if(members_.begin(), members_.end(), [](const auto& entry) {
    return entry.second.node.has_value() && entry.second.held_until == absl::InfiniteFuture();
  });
}

void EtcdMembers::Hold(const std::string& id, absl::Time now) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  if (!found->second.node) {
    members_.erase(found);
    problems_.erase(id);
    return;
  }
  found->second.held_until = std::min(found->second.held_until, now + hold_);
}

void EtcdMembers::Apply(const EtcdListing& listing, absl::Time now) {
  const bool another = cluster_id_ != 0 && listing.cluster_id != cluster_id_;
  const int64_t revision = PossibleRevision(listing.revision);
  if (another || revision < revision_) {  // wiped, or another cluster: its numbers start anew
    wanted_base_ = last_.number.value;
    base_ = 0;
    base_mod_revision_ = 0;
  }
  cluster_id_ = listing.cluster_id;
  revision_ = revision;
  std::set<std::string> listed;
  for (const EtcdKeyValue& entry : listing.entries) {
    Put(entry);
    std::string id;
    if (NodeIdOf(entry.key, &id)) listed.insert(id);
  }
  std::vector<std::string> missing;
  for (const auto& [id, member] : members_) {
    if (listed.count(id) == 0) missing.push_back(id);
  }
  for (const std::string& id : missing) Hold(id, now);
  if (base_ >= wanted_base_) wanted_base_ = 0;
}

void EtcdMembers::Apply(const EtcdChange& change, absl::Time now) {
  const size_t before = Standing();
  std::set<std::string> deleted;  // and not put again by a later event
  for (const EtcdEvent& event : change.events) {
    std::string id;
    const bool of_node = NodeIdOf(event.entry.key, &id);
    if (!event.deleted) {
      Put(event.entry);
      deleted.erase(id);
    } else if (of_node) {
      deleted.insert(id);
    }
  }
  for (const std::string& id : deleted) Hold(id, now);
  const bool many = before >= 3 && 2 * Standing() < before;
  for (const std::string& id : deleted) {
    const auto found = members_.find(id);
    const bool ours = self_ && self_->id.value == id;
    if (!many && !ours && found != members_.end()) members_.erase(found);
  }
  revision_ = std::max(revision_, PossibleRevision(change.revision));
}

void EtcdMembers::Tick(absl::Time now) {
  for (auto entry = members_.begin(); entry != members_.end();) {
    const bool ours = self_ && self_->id.value == entry->first;
    entry = entry->second.held_until <= now && !ours ? members_.erase(entry) : std::next(entry);
  }
}

absl::Time EtcdMembers::NextTick() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, member] : members_) {
    if (!self_ || self_->id.value != id) next = std::min(next, member.held_until);
  }
  return next;
}

bool EtcdMembers::own_record_is_gone() const {
  if (!self_) return false;
  const auto found = members_.find(self_->id.value);
  return found == members_.end() || found->second.held_until != absl::InfiniteFuture();
}

const EtcdKeyValue* EtcdMembers::Entry(const NodeId& id) const {
  const auto found = members_.find(id.value);
  return found == members_.end() || found->second.held_until != absl::InfiniteFuture() ? nullptr : &found->second.entry;
}

uint64_t EtcdMembers::GreatestIncarnation(const NodeId& id) const {
  const auto found = incarnations_.find(id.value);
  return found == incarnations_.end() ? 0 : found->second;
}

std::optional<View> EtcdMembers::TakeView() {
  View view;
  // A node that took another name at its address: the later record. One that stands comes before one that is held,
  // whose revision may be of an etcd before it was wiped.
  const auto age = [](const Member& member) {
    return std::make_pair(member.held_until == absl::InfiniteFuture(), member.entry.mod_revision);
  };
  std::map<std::string, const Member*> by_address;
  for (const auto& [id, member] : members_) {
    if (!member.node) continue;
    const Member*& at = by_address[member.node->address.ToString()];
    if (at == nullptr || age(*at) < age(member)) at = &member;
  }
  for (const auto& [id, member] : members_) {
    if (member.node && by_address[member.node->address.ToString()] == &member) view.nodes.push_back(*member.node);
  }
  if (view.nodes.empty()) return std::nullopt;
  if (view.nodes == last_.nodes) return std::nullopt;
  view.number.value = std::max(last_.number.value + 1, base_ + static_cast<uint64_t>(revision_));
  last_ = view;
  return view;
}

std::string EtcdMembers::Problems() const {
  std::vector<std::string> sentences;
  for (const auto& [id, sentence] : problems_) sentences.push_back(sentence);
  return absl::StrJoin(sentences, "; ");
}

}  // namespace kvist
