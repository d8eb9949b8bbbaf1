// What etcd says, made into views: a pure state machine over listings and events, so that every order of them can be
// tested without one.
//
// Keys     /kvist/<cluster>/nodes/<id> -> a record in JSON, under its node's lease;
//          /kvist/<cluster>/base -> a number, see below.
// Numbers  a view's number is base + revision, both as etcd has them, so whoever holds number N holds what etcd held
//          then. Two things make a view that needs a greater number than that: a wiped etcd, which counts revisions
//          from 1 again, and a hold that ends without a word from etcd. Such a view waits, and WantedBase says what to
//          write to `base` first; writing it gives everybody a greater revision. What is written again as it was makes
//          a number too: those who list get it from the listing, so those who watch must take it.
// Holding  a member that is missing from a listing (after a gap or a wipe), or whose record went together with those of
//          more than half of the members, stays in the view for `hold`, so that it can register again. One that is
//          deleted alone (its lease ended, it left), or that was draining, goes at once.
//
// Threads  none of its own; the caller serializes.
#ifndef KVIST_SERVICES_CLUSTER_ETCD_MEMBERS_H_
#define KVIST_SERVICES_CLUSTER_ETCD_MEMBERS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/cluster/etcd_client.h"
#include "services/cluster/view.h"

namespace kvist {

class EtcdMembers {
 public:
  EtcdMembers(const std::string& cluster, absl::Duration hold);

  const std::string& prefix() const { return prefix_; }
  std::string NodeKey(const NodeId& id) const { return prefix_ + "nodes/" + id.value; }
  std::string BaseKey() const { return prefix_ + "base"; }

  // Our own record, which stands since `revision`. From then on its node stays in the view even if etcd loses it.
  void SetSelf(const Node& self, int64_t revision);
  void ForgetSelf();

  void Apply(const EtcdListing& listing, absl::Time now);
  void Apply(const std::vector<EtcdEvent>& events, absl::Time now);  // those that are known already are passed over
  // Lets those go whose hold is over.
  void Tick(absl::Time now);
  absl::Time NextTick() const;  // InfiniteFuture: nobody is held

  // The view, if it is another than the one given last and may have its number. Never one without nodes.
  std::optional<View> TakeView();
  // What to write to `base`, so that a view that waits can be given; nothing: no view waits.
  std::optional<uint64_t> WantedBase() const;
  int64_t base_mod_revision() const { return base_mod_revision_; }  // 0 = there is none

  int64_t revision() const { return revision_; }  // what happened up to it is known: a watch starts one later
  // Etcd has no record that is ours: it was deleted, or another was written over it.
  bool own_record_is_gone() const;
  // Sentences about what was left out; "" if nothing was.
  std::string Problems() const;

  // The record of this id as it stands in etcd; null if there is none.
  const EtcdKeyValue* Entry(const NodeId& id) const;
  uint64_t GreatestIncarnation(const NodeId& id) const;  // of the records that are known now

 private:
  struct Member {
    EtcdKeyValue entry;
    std::optional<Node> node;                        // empty: it cannot be read
    absl::Time held_until = absl::InfiniteFuture();  // finite: its record is gone
    bool stands() const { return held_until == absl::InfiniteFuture(); }
  };
  struct Departure {
    absl::Time at;
    Member member;
  };

  void Put(const EtcdKeyValue& entry);
  void PutBase(const EtcdKeyValue& entry);
  void Delete(const EtcdKeyValue& entry, absl::Time now);
  void HoldMissing(const EtcdListing& listing, bool wiped, absl::Time now);
  void HoldIfMostVanished(absl::Time now);
  bool NodeIdOf(const std::string& key, std::string* id) const;
  bool IsOwn(const std::string& id) const { return self_ && self_->id.value == id; }
  std::vector<Node> Nodes() const;
  uint64_t number() const { return base_ + static_cast<uint64_t>(revision_); }

  const std::string prefix_;
  const absl::Duration hold_;
  std::optional<Node> self_;
  int64_t self_revision_ = 0;
  std::map<std::string, Member> members_;
  std::map<std::string, Departure> departed_;    // lately, of their own accord as far as is known
  std::map<std::string, std::string> problems_;  // by id
  std::string base_problem_;
  int64_t revision_ = 0;
  int64_t written_revision_ = 0;  // the last known in which something was written under our prefix
  uint64_t cluster_id_ = 0, base_ = 0;
  int64_t base_mod_revision_ = 0;
  View last_;               // given last; number 0 = none
  uint64_t last_base_ = 0;  // of that view
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_MEMBERS_H_
