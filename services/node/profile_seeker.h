// Finds the profiles of blocks that came to this node without them: copies, adopted blocks, what a leaving node handed over.
// The other nodes of the view are asked one after the other, in the background; whoever put the block has given its
// profile to at least one of them.
//
// Bounds  one question at a time; kMost profiles that are looked for; after a round in vain a pause of kPause, then the
//         next block that needs it begins another.
// Threads any; one of its own, which starts when there is something to ask. Destruction waits for the question under way.
#ifndef KVIST_SERVICES_NODE_PROFILE_SEEKER_H_
#define KVIST_SERVICES_NODE_PROFILE_SEEKER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/cluster/peers.h"
#include "services/cluster/view.h"
#include "services/node/profile_shelf.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"

namespace kvist {

class ProfileSeeker {
 public:
  static constexpr size_t kMost = 64;
  static constexpr absl::Duration kPause = absl::Seconds(10), kQuestion = absl::Seconds(2);

  struct Uses {
    NodeId self;
    ProfileShelf* shelf;  // these three outlive it
    Runtime* runtime;
    Transport* transport;
    std::function<std::shared_ptr<const View>()> view;  // null: there is none
  };
  explicit ProfileSeeker(Uses uses);
  ~ProfileSeeker() { stopping_ = true; }

  // Does not wait. Nothing to do if it is on the shelf.
  void Need(const ProfilePlace& place);
  uint64_t found() const { return found_; }

 private:
  void Seek(const ProfilePlace& place);
  bool AskNode(const Node& node, const View& view, const ProfilePlace& place);

  const Uses uses_;
  Peers peers_;
  std::atomic<bool> stopping_ = false;
  std::atomic<uint64_t> found_ = 0;
  std::mutex mutex_;
  std::map<ProfilePlace, absl::Time> next_ ABSL_GUARDED_BY(mutex_);  // round; InfiniteFuture while one is under way
  ThreadPool thread_;                                                // last: its task uses all of the above
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PROFILE_SEEKER_H_
