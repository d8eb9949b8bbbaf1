// Keeps the client's view of the cluster, and the links to its nodes, as replies tell of newer views. Internal to
// services/worker.
//
// A view is learned from a reply that carries it, or is asked for with GetView: at a node whose reply named a greater
// number, at a node whose breaker is open (which is its probe), and, when that node does not answer, at the seeds, so
// that a client finds a cluster whose nodes have all moved. One thread does all of that, one question at a time; it
// starts when there is something to ask.
//
// Views are taken in the order of their numbers. One exception: a cluster that has lost its source (etcd was wiped) and
// moved counts from the start again. A seed's view of it is taken when every node of the current one has answered
// nothing for half a minute; nodes that nobody calls are asked then, so that they are not taken for living ones.
//
// Threads any.
#ifndef KVIST_SERVICES_WORKER_VIEW_KEEPER_H_
#define KVIST_SERVICES_WORKER_VIEW_KEEPER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "services/transport/transport.h"
#include "services/worker/counters.h"
#include "services/worker/node_link.h"

namespace kvist {

class ViewKeeper {
 public:
  struct Uses {
    Runtime* runtime;
    Transport* transport;
    ThreadPool* callers;
    Counters* counters;
    BreakerOptions breaker;
    int link_buffers;  // NodeLink::Uses::buffers
    std::vector<std::string> seeds;
    std::function<void(size_t nodes)> resized;  // before a view with so many nodes is used
  };
  explicit ViewKeeper(Uses uses);
  ~ViewKeeper() { Stop(); }

  // The first view: `given`, or, if that is empty, the greatest that a seed names by the deadline.
  // Errors: Unavailable names every seed and what it said.
  absl::Status Start(View given, absl::Time deadline);
  // Joins the thread; later events are ignored.
  void Stop();

  LinkedViewRef current() const;

  // A reply of this node said that it holds view `number`.
  void Heard(const std::shared_ptr<NodeLink>& from, uint64_t number);
  // A reply carried this view. Taken if it is newer and valid.
  void Learn(const v1::View& newer);
  // Asks the node for its view now. True if the client's is a newer one afterwards than `known`.
  bool Refresh(NodeLink& from, uint64_t known, absl::Time deadline);

 private:
  void Opened(const std::shared_ptr<NodeLink>& link);
  // In place of the current view, if its number is greater, or the current one's is still `instead_of`.
  void Install(View view, std::optional<uint64_t> instead_of = std::nullopt) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<View> AskSeeds(absl::Time deadline);
  static absl::StatusOr<View> AskForView(Channel& channel, absl::Time deadline);
  void TakeIfNewer(absl::StatusOr<View> view);
  void TakeFromSeed(View view);

  void StartThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();
  void RefreshNow(const std::shared_ptr<NodeLink>& from);
  void ProbeNow(const std::shared_ptr<NodeLink>& link);
  // The link of `open_` that is due first, and when.
  std::shared_ptr<NodeLink> NextProbe(absl::Time* due) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Uses uses_;
  std::atomic<uint64_t> number_ = 0;  // of current_
  const std::unique_ptr<Condition> changed_;

  mutable std::mutex mutex_;
  LinkedViewRef current_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<NodeLink> told_ ABSL_GUARDED_BY(mutex_);  // who named a greater number, and is to be asked for it
  absl::Time refresh_due_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration refresh_pause_ ABSL_GUARDED_BY(mutex_);
  absl::Time seeds_due_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::vector<std::weak_ptr<NodeLink>> open_ ABSL_GUARDED_BY(mutex_);  // whose breakers have opened
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Thread> thread_ ABSL_GUARDED_BY(mutex_);
  std::mutex install_mutex_;  // views are installed one at a time; nobody waits under it
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_VIEW_KEEPER_H_
