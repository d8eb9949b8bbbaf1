#include "services/worker/view_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cluster/records.h"
#include "services/runtime/trace.h"
#include "services/worker/retry.h"

namespace kvist {
namespace {

constexpr absl::Duration kAskDeadline = absl::Seconds(1);
constexpr absl::Duration kFirstPause = absl::Milliseconds(200), kLongestPause = absl::Seconds(10);
constexpr absl::Duration kSeedsPause = absl::Seconds(2);  // between rounds over the seeds while nodes are down
constexpr absl::Duration kStartPause = absl::Milliseconds(100);
constexpr int kAskedARound = 4;  // nodes of which nobody knows whether they live, for a second each
constexpr absl::Duration kGivenUpAfter = absl::Seconds(30);  // a view all of whose nodes answer nothing

bool SameLife(const Node& a, const Node& b) {
  return a.id == b.id && a.address == b.address && a.incarnation == b.incarnation;
}

}  // namespace

ViewKeeper::ViewKeeper(Uses uses)
    : uses_(std::move(uses)),
      changed_(uses_.runtime->NewCondition()),
      current_(std::make_shared<LinkedView>()),
      refresh_pause_(kFirstPause) {}

absl::Status ViewKeeper::Start(View given, absl::Time deadline) {
  if (given.nodes.empty()) {
    absl::StatusOr<View> asked = AskSeeds(deadline);
    if (!asked.ok()) return asked.status();
    given = *std::move(asked);
  }
  Install(std::move(given));
  return absl::OkStatus();
}

void ViewKeeper::Stop() {
  std::unique_ptr<Thread> thread;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    thread = std::move(thread_);
  }
  changed_->NotifyAll();
}

LinkedViewRef ViewKeeper::current() const {
  std::lock_guard lock(mutex_);
  return current_;
}

void ViewKeeper::Heard(const std::shared_ptr<NodeLink>& from, uint64_t number) {
  const uint64_t ours = number_;
  if (number == 0 || number == ours) return;
  ++uses_.counters->stale_views;
  if (number < ours) return;
  std::lock_guard lock(mutex_);
  if (stopping_ || std::exchange(told_, from) != nullptr) return;
  StartThread();
  changed_->NotifyAll();
}

void ViewKeeper::Learn(const v1::View& newer) {
  if (newer.number() > number_) TakeIfNewer(ViewFromWire(newer));
}

bool ViewKeeper::Refresh(NodeLink& from, uint64_t known, absl::Time deadline) {
  if (number_ > known) return true;
  if (from.channel() == nullptr) return false;
  TakeIfNewer(AskForView(*from.channel(), std::min(deadline, uses_.runtime->Now() + kAskDeadline)));
  return number_ > known;
}

void ViewKeeper::TakeIfNewer(absl::StatusOr<View> view) {
  if (view.ok()) return Install(*std::move(view));
  if (absl::IsInvalidArgument(view.status())) ++uses_.counters->refused_views;
}

// A view that is older than ours, or another of the same number, is perhaps that of a cluster that began anew.
void ViewKeeper::TakeFromSeed(View view) {
  const LinkedViewRef ours = current();
  if (view.number > ours->view.number) return Install(std::move(view));
  if (view == ours->view) return;
  int asked = 0;
  absl::Time down_since = absl::InfinitePast();  // all of them
  for (const std::shared_ptr<NodeLink>& link : ours->links) {
    if (link->DownSince() == absl::InfiniteFuture() && asked++ < kAskedARound) {
      const absl::Time deadline = uses_.runtime->Now() + kAskDeadline;
      link->Ask<v1::GetViewResponse>([&](Channel& node) { return node.GetView(deadline); })
          .status()
          .IgnoreError();  // its breaker has heard
    }
    down_since = std::max(down_since, link->DownSince());
  }
  if (uses_.runtime->Now() - down_since < kGivenUpAfter) return;
  Install(std::move(view), /*instead_of=*/ours->view.number.value);
}

void ViewKeeper::Install(View view, std::optional<uint64_t> instead_of) {
  std::lock_guard installing(install_mutex_);
  const LinkedViewRef before = current();
  if (view.number.value <= number_ && instead_of != number_.load()) return;
  if (number_ != 0) ++uses_.counters->refreshes;
  uses_.resized(view.nodes.size());
  auto after = std::make_shared<LinkedView>();
  for (const Node& node : view.nodes) {
    const auto same = std::find_if(before->links.begin(), before->links.end(),
                                   [&](const auto& link) { return SameLife(link->node(), node); });
    if (same != before->links.end()) {
      after->links.push_back(*same);
      continue;
    }
    std::unique_ptr<Channel> channel;
    if (node.address.port != 0) channel = uses_.transport->Connect(node.address.ToString());
    after->links.push_back(
        std::make_shared<NodeLink>(node, std::move(channel),
                                   NodeLink::Uses{uses_.runtime, uses_.callers, uses_.breaker, uses_.link_buffers,
                                                  [this](const auto& link) { Opened(link); }}));
  }
  after->view = std::move(view);
  std::lock_guard lock(mutex_);
  number_ = after->view.number.value;
  current_ = std::move(after);
}

absl::StatusOr<View> ViewKeeper::AskForView(Channel& channel, absl::Time deadline) {
  const absl::StatusOr<v1::GetViewResponse> response = channel.GetView(deadline);
  if (!response.ok()) return response.status();
  if (!response->has_view()) return absl::NotFoundError("it has no view yet");
  return ViewFromWire(response->view());
}

// All at once, again and again: the first that has a valid view is taken.
absl::StatusOr<View> ViewKeeper::AskSeeds(absl::Time deadline) {
  struct Shared {
    std::mutex mutex;
    std::unique_ptr<Condition> changed;
    std::optional<View> view;
    std::vector<std::string> said;
    size_t asked = 0;
  };
  auto shared = std::make_shared<Shared>();
  shared->changed = uses_.runtime->NewCondition();
  shared->said.resize(uses_.seeds.size());
  while (true) {
    const absl::Time late = std::min(deadline, uses_.runtime->Now() + kAskDeadline);
    shared->asked = uses_.seeds.size();
    for (size_t i = 0; i < uses_.seeds.size(); ++i) {
      uses_.callers->Submit(InCurrentTrace([shared, i, late, transport = uses_.transport, seed = uses_.seeds[i]] {
        const std::unique_ptr<Channel> channel = transport->Connect(seed);
        absl::StatusOr<View> view = AskForView(*channel, late);
        std::lock_guard lock(shared->mutex);
        --shared->asked;
        // That time ran out says less than an earlier refusal.
        if (!view.ok() && (shared->said[i].empty() || !absl::IsDeadlineExceeded(view.status()))) {
          shared->said[i] = std::string(view.status().message());
        }
        if (view.ok() && (!shared->view || shared->view->number < view->number)) shared->view = *std::move(view);
        shared->changed->NotifyAll();
      }));
    }
    std::unique_lock lock(shared->mutex);
    shared->changed->WaitUntil(lock, deadline, [&] { return shared->view || shared->asked == 0; });
    if (shared->view) return *std::exchange(shared->view, std::nullopt);
    lock.unlock();
    const absl::Time again = uses_.runtime->Now() + Jittered(kStartPause, uses_.runtime);
    if (again >= deadline) break;
    uses_.runtime->SleepUntil(again);
  }
  std::vector<std::string> said;
  std::lock_guard lock(shared->mutex);
  for (size_t i = 0; i < uses_.seeds.size(); ++i) {
    const std::string& why = shared->said[i];
    said.push_back(absl::StrCat(uses_.seeds[i], ": ", why.empty() ? "no answer in time" : why));
  }
  return absl::UnavailableError(absl::StrCat("no seed gave a view of the cluster: ", absl::StrJoin(said, "; ")));
}

void ViewKeeper::Opened(const std::shared_ptr<NodeLink>& link) {
  ++uses_.counters->openings;
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  open_.push_back(link);
  StartThread();
  changed_->NotifyAll();
}

void ViewKeeper::StartThread() {
  if (thread_ == nullptr) thread_ = uses_.runtime->Start([this] { Run(); });
}

std::shared_ptr<NodeLink> ViewKeeper::NextProbe(absl::Time* due) {
  std::shared_ptr<NodeLink> first;
  *due = absl::InfiniteFuture();
  std::erase_if(open_, [&](const std::weak_ptr<NodeLink>& weak) {
    const std::shared_ptr<NodeLink> link = weak.lock();
    const absl::Time probe = link == nullptr ? absl::InfiniteFuture() : link->breaker().ProbeDue();
    if (probe < *due) {
      *due = probe;
      first = link;
    }
    return probe == absl::InfiniteFuture();
  });
  return first;
}

void ViewKeeper::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const absl::Time now = uses_.runtime->Now();
    absl::Time probe_due;
    const std::shared_ptr<NodeLink> probe = NextProbe(&probe_due);
    const absl::Time refresh_due = told_ == nullptr ? absl::InfiniteFuture() : refresh_due_;
    if (refresh_due <= now) {
      const std::shared_ptr<NodeLink> from = std::exchange(told_, nullptr);
      lock.unlock();
      RefreshNow(from);
      lock.lock();
    } else if (probe_due <= now) {
      lock.unlock();
      ProbeNow(probe);
      lock.lock();
    } else {
      changed_->WaitUntil(lock, std::min(refresh_due, probe_due));
    }
  }
}

// A node that names numbers but never has such a view is asked less and less.
void ViewKeeper::RefreshNow(const std::shared_ptr<NodeLink>& from) {
  const bool newer = Refresh(*from, number_, absl::InfiniteFuture());
  const absl::Time now = uses_.runtime->Now();
  std::lock_guard lock(mutex_);
  refresh_pause_ = newer ? kFirstPause : std::min(kLongestPause, refresh_pause_ * 2);
  refresh_due_ = now + Jittered(refresh_pause_, uses_.runtime);
}

void ViewKeeper::ProbeNow(const std::shared_ptr<NodeLink>& link) {
  absl::StatusOr<View> view = AskForView(*link->channel(), uses_.runtime->Now() + kAskDeadline);
  const bool answered = !absl::IsUnavailable(view.status()) && !absl::IsDeadlineExceeded(view.status());
  link->breaker().Probed(view.status());
  TakeIfNewer(std::move(view));
  if (answered || uses_.seeds.empty()) return;
  const absl::Time now = uses_.runtime->Now();
  {
    std::lock_guard lock(mutex_);
    if (now < seeds_due_) return;
    seeds_due_ = now + Jittered(kSeedsPause, uses_.runtime);
  }
  for (const std::string& seed : uses_.seeds) {
    absl::StatusOr<View> newer = AskForView(*uses_.transport->Connect(seed), uses_.runtime->Now() + kAskDeadline);
    if (newer.ok()) return TakeFromSeed(*std::move(newer));
    if (absl::IsInvalidArgument(newer.status())) ++uses_.counters->refused_views;
  }
}

}  // namespace kvist
