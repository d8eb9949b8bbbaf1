// Goal    Whatever etcd answers, views are valid, their numbers go up, and a node whose record stands is in them.
// Input   A script: one byte an act, then what it takes. Answers are built from choices, or are protobuf bytes as they
//         come.
// Method  Against the plain list of records that stand, kept by applying the same answers one by one.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "etcd/rpc.pb.h"
#include "services/cluster/etcd_members.h"
#include "services/cluster/etcd_wire.h"
#include "services/cluster/records.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate listed("a listing"), changed("a change"), raw("an answer as it came"), viewed("a view"), deleted("a record goes"),
    held("a member is held"), unreadable("a record that cannot be read"), based("a base is known"),
    wiped("etcd was wiped"), raised("the base is raised"), two_at_one("two records of one address"),
    self_gate("our own record");

constexpr int kMostActs = 60;
constexpr uint64_t kMostBase = uint64_t{1} << 62;  // what members believe
constexpr absl::Duration kHold = absl::Seconds(10);

class Script {
 public:
  explicit Script(fuzz::Input* input) : input_(input) {}

  void Run() {
    for (int i = 0; i < kMostActs && input_->left() > 0; ++i) {
      Act();
      Check();
    }
    Settle();
  }

 private:
  void Act() {
    switch (input_->Below(8)) {
      case 0:
        return List(Listing());
      case 1:
      case 2:
      case 3:
        return Change(Changes());
      case 4:
        return RawListing();
      case 5:
        return RawChange();
      case 6:
        return Turn();
      default:
        return BeSelf();
    }
  }

  // --- Answers from choices ---
  std::string Key() {
    const uint64_t which = input_->Below(8);
    if (which == 7) return members_.BaseKey();
    if (which == 6) return members_.prefix() + input_->Text(3);
    return members_.NodeKey(NodeId{"n" + std::to_string(which)});
  }
  // A record of the key's node, at one of a few addresses; sometimes one that is wrong.
  std::string Value(const std::string& key) {
    const uint8_t how = input_->Byte();
    if (key == members_.BaseKey()) return how == 0 ? "18446744073709551615" : std::to_string(how * 1000);
    if (how >= 250) return input_->Text(how - 240);
    Node node;
    node.id.value = how == 249 ? "other" : key.substr(std::min(key.size(), members_.prefix().size() + 6));
    node.address = {"h", static_cast<uint16_t>(how % 6)};
    node.incarnation = how / 32;
    node.state = static_cast<NodeState>(how % 3);
    return RecordToJson(node);
  }
  EtcdKeyValue Entry() {
    EtcdKeyValue entry;
    entry.key = Key();
    entry.value = Value(entry.key);
    entry.mod_revision = static_cast<int64_t>(input_->Byte());
    return entry;
  }
  EtcdListing Listing() {
    EtcdListing listing{Revision(), 1 + input_->Below(2), {}};
    for (uint64_t i = input_->Below(6); i > 0; --i) listing.entries.push_back(Entry());
    listed.Pass();
    return listing;
  }
  // Of later revisions, each of one event or more.
  EtcdChange Changes() {
    EtcdChange change;
    int64_t revision = members_.revision() + 1;
    for (uint64_t i = input_->Below(5); i > 0; --i) {
      EtcdEvent event{input_->Flag(), Entry()};
      if (event.deleted) event.entry.value.clear();
      event.entry.mod_revision = revision += input_->Flag();
      change.events.push_back(std::move(event));
    }
    changed.Pass();
    return change;
  }
  int64_t Revision() {
    const uint8_t byte = input_->Byte();
    return 1 + (byte == 255 ? static_cast<int64_t>(input_->Number(8) % kMostRevision) : byte);
  }

  // --- Answers as they come ---
  template <typename Response>
  std::optional<Response> Raw() {
    const absl::Span<const uint8_t> bytes = input_->Bytes(input_->Number(2));
    Response response;
    if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
    raw.Pass();
    return response;
  }
  void RawListing() {
    const auto response = Raw<etcdserverpb::RangeResponse>();
    if (!response) return;
    const EtcdListing listing = FromWire(*response);
    if (IsPossibleRevision(listing.revision)) List(listing);  // the client lets no other through
  }
  void RawChange() {
    const auto response = Raw<etcdserverpb::WatchResponse>();
    if (!response) return;
    EtcdChange change = FromWire(*response);
    const auto impossible = [](const EtcdEvent& event) { return !IsPossibleRevision(event.entry.mod_revision); };
    change.events.erase(std::remove_if(change.events.begin(), change.events.end(), impossible), change.events.end());
    if (!change.compacted) Change(change);
  }

  // --- Both sides ---
  void List(const EtcdListing& listing) {
    if (listing.revision == members_.revision()) return;  // one revision is one content
    if (listing.revision < members_.revision()) wiped.Pass();
    records_.clear();
    for (const EtcdKeyValue& entry : listing.entries) records_[entry.key] = Read(entry);
    members_.Apply(listing, now_);
  }
  void Change(const EtcdChange& change) {
    const int64_t known = members_.revision();
    for (const EtcdEvent& event : change.events) {
      if (event.entry.mod_revision <= known) continue;
      if (event.deleted) {
        deleted.Pass();
        records_.erase(event.entry.key);
      } else {
        records_[event.entry.key] = Read(event.entry);
      }
    }
    members_.Apply(change.events, now_);
  }
  // A view may wait until somebody has raised the base: we do, as a member would.
  void RaiseBase() {
    for (int times = 0; members_.WantedBase(); ++times) {
      if (*members_.WantedBase() > kMostBase) stuck_ = true;  // somebody wrote a base by hand that leaves no room
      if (stuck_) return;
      KVIST_HOLDS(times < 2, "a raised base is not enough");
      EtcdEvent event;
      event.entry = {members_.BaseKey(), std::to_string(*members_.WantedBase()), members_.revision() + 1, 0};
      members_.Apply({event}, now_);
      raised.Pass();
    }
  }
  void Turn() {
    now_ += absl::Seconds(input_->Below(16));
    members_.Tick(now_);
    KVIST_HOLDS(members_.NextTick() > now_, "somebody is held whose time is over");
  }
  void BeSelf() {
    const NodeId id{"n" + std::to_string(input_->Below(3))};
    if (input_->Flag()) {
      members_.ForgetSelf();
    } else if (const std::optional<Node> node = Standing(members_.NodeKey(id))) {
      members_.SetSelf(*node, members_.revision());
      self_gate.Pass();
    }
  }

  // --- What must hold ---
  struct Record {
    EtcdKeyValue entry;
    std::optional<Node> node;  // empty: it cannot be read, or is of another
  };
  Record Read(const EtcdKeyValue& entry) const {
    const std::string nodes = members_.prefix() + "nodes/";
    if (entry.key.compare(0, nodes.size(), nodes) != 0) return {entry, std::nullopt};
    absl::StatusOr<Node> node = RecordFromJson(entry.value);
    if (!node.ok() || node->id.value != entry.key.substr(nodes.size())) return {entry, std::nullopt};
    if (node->address.port == 0) return {entry, std::nullopt};  // nobody could reach it
    return {entry, *std::move(node)};
  }
  std::optional<Node> Standing(const std::string& key) const {
    const auto record = records_.find(key);
    return record == records_.end() ? std::nullopt : record->second.node;
  }

  void Check() {
    for (const auto& [key, record] : records_) {
      const std::optional<Node>& node = record.node;
      if (!node) continue;
      const EtcdKeyValue* const entry = members_.Entry(node->id);
      KVIST_HOLDS(entry != nullptr, "the record ", key, " stands, and its node is no member");
      KVIST_HOLDS(entry->value == record.entry.value && entry->mod_revision == record.entry.mod_revision,
                  "an old record of ", key);
      KVIST_HOLDS(members_.GreatestIncarnation(node->id) >= node->incarnation, "incarnation of ", key);
    }
    if (!members_.Problems().empty()) unreadable.Pass();
    if (members_.NextTick() != absl::InfiniteFuture()) held.Pass();
    if (members_.base_mod_revision() != 0) based.Pass();
    KVIST_HOLDS(members_.revision() >= 0 && members_.revision() < INT64_MAX, members_.revision());
    RaiseBase();
    if (std::optional<View> view = members_.TakeView()) TakeView(*std::move(view));
    KVIST_HOLDS(!members_.TakeView(), "one view twice");
    CheckStandingAreIn();
  }

  void TakeView(View view) {
    const absl::Status valid = ValidateView(view);
    KVIST_HOLDS(valid.ok(), valid.message());
    KVIST_HOLDS(view.number > view_.number, "view ", view.number.value, " after ", view_.number.value);
    const uint64_t revision = static_cast<uint64_t>(members_.revision());
    // What was only written again has the number of that writing, which a listing may come later than.
    KVIST_HOLDS(view.number.value >= revision || view.nodes == view_.nodes, "view ", view.number.value, " of revision ",
                revision);
    view_ = std::move(view);
    viewed.Pass();
  }

  // Only a later record of the same address takes a standing node's place.
  bool IsReplaced(const std::string& key, const Node& node) const {
    const int64_t revision = records_.at(key).entry.mod_revision;
    return std::any_of(records_.begin(), records_.end(), [&](const auto& other) {
      const Record& rival = other.second;
      return other.first != key && rival.node && rival.node->address == node.address &&
             rival.entry.mod_revision >= revision;
    });
  }

  void CheckStandingAreIn() {
    if (stuck_) return;
    for (const auto& entry : records_) {
      const std::optional<Node>& node = entry.second.node;
      if (!node) continue;
      const bool replaced = IsReplaced(entry.first, *node);
      if (replaced) two_at_one.Pass();
      const Node* const found = view_.Find(node->id);
      KVIST_HOLDS(replaced || (found != nullptr && *found == *node), "the view has another node ", node->id.value);
    }
  }

  // When nothing more comes, the view is of the records that stand.
  void Settle() {
    members_.ForgetSelf();
    now_ += kHold;
    members_.Tick(now_);
    RaiseBase();
    if (std::optional<View> view = members_.TakeView()) TakeView(*std::move(view));
    const bool any = std::any_of(records_.begin(), records_.end(),
                                 [](const auto& record) { return record.second.node.has_value(); });
    if (!any || stuck_) return;  // the last view stays
    for (const Node& node : view_.nodes) {
      const std::optional<Node> standing = Standing(members_.NodeKey(node.id));
      KVIST_HOLDS(standing && *standing == node, "node ", node.id.value, " has no record, and stays");
    }
  }

  fuzz::Input* const input_;
  EtcdMembers members_{"c", kHold};
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::map<std::string, Record> records_;  // that stand, by key
  View view_;                              // the last
  bool stuck_ = false;                     // no view can follow
};

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  google::protobuf::SetLogHandler(nullptr);  // it would tell of each string that is not UTF-8
  kvist::fuzz::Input input(data, size);
  kvist::Script(&input).Run();
  return 0;
}
