// What etcd's answers say, out of its messages.
//
// Threads pure.
#ifndef KVIST_SERVICES_CLUSTER_ETCD_WIRE_H_
#define KVIST_SERVICES_CLUSTER_ETCD_WIRE_H_

#include "etcd/rpc.pb.h"
#include "services/cluster/etcd_client.h"

namespace kvist {

// A million years of writes. Beyond it is no etcd, and a sum with the base, or the next revision, might not fit.
inline constexpr int64_t kMostRevision = int64_t{1} << 56;
inline bool IsPossibleRevision(int64_t revision) { return revision > 0 && revision < kMostRevision; }

inline EtcdKeyValue FromWire(const etcdserverpb::KeyValue& kv) {
  return {kv.key(), kv.value(), kv.mod_revision(), kv.lease()};
}

inline EtcdListing FromWire(const etcdserverpb::RangeResponse& response) {
  EtcdListing listing{response.header().revision(), response.header().cluster_id(), {}};
  for (const etcdserverpb::KeyValue& kv : response.kvs()) listing.entries.push_back(FromWire(kv));
  return listing;
}

inline EtcdChange FromWire(const etcdserverpb::WatchResponse& response) {
  EtcdChange change;
  change.compacted = response.canceled() && response.compact_revision() > 0;
  for (const etcdserverpb::Event& event : response.events()) {
    change.events.push_back({event.type() == etcdserverpb::Event::DELETE, FromWire(event.kv())});
  }
  return change;
}

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_WIRE_H_
