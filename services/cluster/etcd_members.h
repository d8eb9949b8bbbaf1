// What etcd says, made into views: a pure state machine over listings and changes, so that every order of events can be
// tested without one.
//
// Keys     /kvist/<cluster>/nodes/<id> -> a record in JSON, under its node's lease;
//          /kvist/<cluster>/base -> a number, see below.
// Numbers  a view's number is base + revision. A wiped etcd counts revisions from 1 again: a member that remembers a
//          greater number then writes it to `base`, so that numbers go on upwards for everybody.
// Holding  a member that is missing from a listing (after a gap or a wipe), or whose record went together with those of
//          more than half of the others, stays in the view for `hold`, so that it can register again. One that is
//          deleted alone (its lease ended, it left) goes at once.
//
// Threads  none of its own; the caller serializes.
#ifndef KVIST_SERVICES_CLUSTER_ETCD_MEMBERS_H_
#define KVIST_SERVICES_CLUSTER_ETCD_MEMBERS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

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

  // Our own record, once it stands. While its node lives it stays in the view even if etcd lost it.
  void SetSelf(const Node& self) { self_ = self; }
  void ForgetSelf() { self_.reset(); }

  void Apply(const EtcdListing& listing, absl::Time now);
  void Apply(const EtcdChange& change, absl::Time now);  // REQUIRES: !change.compacted
  // Lets those go whose hold is over.
  void Tick(absl::Time now);
  absl::Time NextTick() const;  // InfiniteFuture: nobody is held

  // The view, if it is another than the one given last. Never one without nodes.
  std::optional<View> TakeView();

  int64_t revision() const { return revision_; }  // changes up to it are known: a watch starts one later
  bool own_record_is_gone() const;
  // What `base` should be raised to; 0 = it is right.
  uint64_t WantedBase() const { return wanted_base_; }
  int64_t base_mod_revision() const { return base_mod_revision_; }  // 0 = there is none
  // Sentences about records that were left out, the most recent a node; "" if there are none.
  std::string Problems() const;

  // Of the record of this id as it stands in etcd; null if there is none.
  const EtcdKeyValue* Entry(const NodeId& id) const;
  uint64_t GreatestIncarnation(const NodeId& id) const;

 private:
  struct Member {
    std::optional<Node> node;  // empty: it cannot be read
    EtcdKeyValue entry;
    absl::Time held_until = absl::InfiniteFuture();  // finite: its record is gone
  };

  void Put(const EtcdKeyValue& entry);
  void Hold(const std::string& id, absl::Time now);
  bool NodeIdOf(const std::string& key, std::string* id) const;
  size_t Standing() const;

  const std::string prefix_;
  const absl::Duration hold_;
  std::optional<Node> self_;
  std::map<std::string, Member> members_;
  std::map<std::string, std::string> problems_;
  std::map<std::string, uint64_t> incarnations_;
  int64_t revision_ = 0;
  uint64_t cluster_id_ = 0, base_ = 0, wanted_base_ = 0;
  int64_t base_mod_revision_ = 0;
  View last_;  // given last; number 0 = none
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_MEMBERS_H_
