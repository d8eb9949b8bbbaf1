// The sessions that are open, so that the node can end those that hold something for too long.
//
// Threads any. A session's own lock is taken under none of this list's.
#ifndef KVIST_SERVICES_NODE_OPEN_SESSIONS_H_
#define KVIST_SERVICES_NODE_OPEN_SESSIONS_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvist {

class OpenSession {
 public:
  virtual ~OpenSession() = default;
  // Ends the session if it may not go on; does not wait for its user.
  virtual void Sweep(absl::Time now) = 0;
  virtual void End(absl::Status why) = 0;
};

class OpenSessions {
 public:
  void Add(std::shared_ptr<OpenSession> session) {
    std::lock_guard lock(mutex_);
    sessions_.push_back(std::move(session));
  }
  void Remove(const OpenSession* session) {
    std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(sessions_.begin(), sessions_.end(), [session](const auto& open) { return open.get() == session; });
    if (found == sessions_.end()) return;
    std::swap(*found, sessions_.back());
    sessions_.pop_back();
  }
  std::vector<std::shared_ptr<OpenSession>> All() const {
    std::lock_guard lock(mutex_);
    return sessions_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<OpenSession>> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_OPEN_SESSIONS_H_
