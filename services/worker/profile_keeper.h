// The profile of a client's namespace: given at its creation, or fetched from a node once a block needs it. Internal to
// services/worker.
//
// A fetch runs in the background, one at a time, and asks the block's node first and then all others. After one in vain
// the next block that needs it begins another, not before a pause that doubles each time: nobody waits for it.
// What a node sends is compared with the digest before it is read, and with the namespace's shape before it is used.
//
// Threads any; one of its own, which starts with the first fetch. Destruction waits for the question under way.
#ifndef KVIST_SERVICES_WORKER_PROFILE_KEEPER_H_
#define KVIST_SERVICES_WORKER_PROFILE_KEEPER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/block_format.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/worker/counters.h"
#include "services/worker/node_link.h"
#include "services/worker/open_profile.h"

namespace kvist {

using ProfileRef = std::shared_ptr<const OpenProfile>;

class ProfileKeeper {
 public:
  static constexpr absl::Duration kFirstPause = absl::Seconds(1), kLongestPause = absl::Minutes(1);
  static constexpr absl::Duration kLongestCall = absl::Minutes(1);  // that nodes take

  struct Uses {
    Runtime* runtime;
    Counters* counters;
    std::function<LinkedViewRef()> view;
    std::array<uint8_t, 16> digest;  // of the namespace; zeros: it needs none
    BlockShape shape;
    absl::Duration deadline;  // of one question
  };
  ProfileKeeper(Uses uses, ProfileRef given);
  ~ProfileKeeper() { stopping_ = true; }

  ProfileRef profile() const;  // null: it is not here yet

  // A block of this node's needs it. Does not wait.
  void Need(const std::shared_ptr<NodeLink>& node);

  // Any profile, on the caller's thread.
  absl::StatusOr<ProfileRef> Fetch(const std::array<uint8_t, 16>& digest, const std::shared_ptr<NodeLink>& first,
                                   absl::Time deadline);

 private:
  void FetchOwn(const std::shared_ptr<NodeLink>& first);
  absl::StatusOr<ProfileRef> FetchFrom(NodeLink& node, const std::array<uint8_t, 16>& digest, absl::Time deadline);
  absl::Status Refused(absl::Status why);

  const Uses uses_;
  std::atomic<bool> stopping_ = false;
  mutable std::mutex mutex_;
  ProfileRef profile_ ABSL_GUARDED_BY(mutex_);
  bool fetching_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time next_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // fetch, not before
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_) = kFirstPause;
  ThreadPool thread_;  // last: its task uses all of the above
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_PROFILE_KEEPER_H_
