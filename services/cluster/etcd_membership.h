// Membership over a conversation with etcd that is made elsewhere: NewEtcdMembership gives it a real one
// (membership.h), a test one that fails as it likes.
#ifndef KVIST_SERVICES_CLUSTER_ETCD_MEMBERSHIP_H_
#define KVIST_SERVICES_CLUSTER_ETCD_MEMBERSHIP_H_

#include <memory>

#include "services/cluster/etcd_client.h"
#include "services/cluster/membership.h"
#include "services/runtime/runtime.h"

namespace kvist {

// REQUIRES: valid options.
std::unique_ptr<Membership> NewMembershipOver(std::unique_ptr<EtcdClient> client, EtcdOptions options,
                                              Runtime* runtime);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_ETCD_MEMBERSHIP_H_
