// The connection to one life of one node, and what this client knows of it. Internal to services/worker.
//
// A link belongs to a node id, an address and an incarnation; views that agree in these share it, and the last view or
// call that uses it closes it.
//
// Threads any. What Submit is given runs on the client's callers, at most kLinkCalls at a time for one link: a node
// that answers nothing holds that many threads and no more.
#ifndef KVIST_SERVICES_WORKER_NODE_LINK_H_
#define KVIST_SERVICES_WORKER_NODE_LINK_H_

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/runtime/wait.h"
#include "services/transport/transport.h"
#include "services/worker/health.h"

namespace kvist {

inline constexpr size_t kLinkCalls = 8;          // at once, by Submit
inline constexpr size_t kLinkQueued = 4 * 1024;  // tasks that may wait for their turn

class NodeLink : public std::enable_shared_from_this<NodeLink> {
 public:
  struct Uses {
    Runtime* runtime;
    ThreadPool* callers;
    BreakerOptions breaker;
    int buffers;                                                   // that calls to this node may fill or send at once
    std::function<void(const std::shared_ptr<NodeLink>&)> opened;  // its breaker has opened
  };
  // `channel` is null for a node whose address nobody knows: every call fails at once.
  NodeLink(Node node, std::unique_ptr<Channel> channel, Uses uses);

  const Node& node() const { return node_; }
  const std::string& id() const { return node_.id.value; }
  Channel* channel() const { return channel_.get(); }

  // Ok if a call would be sent now. Else Unavailable: the breaker is open; or ResourceExhausted: as of Submit.
  absl::Status Refusal();

  // Asks the node, unless it is not asked now, and judges it by the answer.
  template <typename Answer, typename Question>
  absl::StatusOr<Answer> Ask(Question question) {
    Wait wait(this);
    if (!wait.refusal().ok()) return wait.refusal();
    absl::StatusOr<Answer> answer = question(*channel_);
    wait.End(answer.status());
    return answer;
  }

  // The time in which one call waits for the node. Ends unjudged unless End was called.
  class Wait {
   public:
    explicit Wait(NodeLink* link);
    ~Wait();
    const absl::Status& refusal() const { return refusal_; }  // not ok: do not call
    void Alive();
    // We ourselves are slow from here on; the node is not to blame until Resume.
    void Pause();
    void Resume();
    void End(const absl::Status& status);

   private:
    NodeLink* const link_;
    absl::Status refusal_;
    absl::Time began_;
    bool waiting_ = false;
  };

  // Runs the task when it is its turn. ResourceExhausted if kLinkQueued wait for theirs already: it will not run.
  absl::Status Submit(std::function<void()> task);

  // Held while a buffer of the client is filled from this node or sent to it: a node that stops in the middle of its
  // streams keeps so many, and leaves the rest to the others.
  Slots& buffers() { return buffers_; }

  // Bytes that the node has still to send, as far as we know: what it said in its last reply, for a second, and what
  // our own calls expect.
  uint64_t Busy();
  void HeardLoad(const v1::Load& load);
  void Expect(int64_t bytes) { expected_bytes_ += bytes; }  // negative: came, or will not

  // True for the first caller, and again after Forget: what a node should be told once on each connection.
  bool TakeDescribe() { return !described_.exchange(true); }
  void ForgetDescribe() { described_ = false; }

  // The profile of the client's blocks is there.
  bool has_profile() const { return has_profile_; }
  void SetHasProfile() { has_profile_ = true; }

  Breaker& breaker() { return breaker_; }
  // Since when the node has answered nothing; InfiniteFuture if it is asked.
  absl::Time DownSince() { return channel_ == nullptr ? absl::InfinitePast() : breaker_.OpenSince(); }

 private:
  void RunTask();
  absl::Status FullNow() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Node node_;
  const std::unique_ptr<Channel> channel_;
  const Uses uses_;
  Breaker breaker_;
  Slots buffers_;
  std::atomic<bool> described_ = false, has_profile_ = false;
  std::atomic<int64_t> expected_bytes_ = 0;

  std::mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;    // turns that the pool was asked for, at most kLinkCalls
  size_t scheduled_ ABSL_GUARDED_BY(mutex_) = 0;  // of these, turns that have not begun: each takes one of tasks_
  uint64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time heard_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// A view, and the link to each of its nodes. A call works with the one it began with.
struct LinkedView {
  View view;
  std::vector<std::shared_ptr<NodeLink>> links;  // by position in the view

  const std::string& NodeName(size_t node) const { return view.nodes[node].id.value; }
  std::optional<size_t> Position(const std::string& id) const;
};
using LinkedViewRef = std::shared_ptr<const LinkedView>;

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_NODE_LINK_H_
