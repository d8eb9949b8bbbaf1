// Membership from a cluster file: the file is read again when it changes, and so are the addresses that nodes publish.
#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "services/cluster/membership.h"
#include "services/cluster/static_file.h"

namespace kvist {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(200);  // a file's worth of bytes, and one more a node

class StaticMembership final : public Membership {
 public:
  StaticMembership(std::string cluster_file, ClusterFiles files, Runtime* runtime)
      : cluster_file_(std::move(cluster_file)), runtime_(runtime), changed_(runtime->NewCondition()) {
    Take(std::move(files));
    polling_ = runtime_->Start([this] { Poll(); });
  }
  ~StaticMembership() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_->NotifyAll();
    }
    polling_.reset();
  }

  std::shared_ptr<const View> view() const override {
    std::lock_guard lock(mutex_);
    return view_;
  }
  void Watch(std::function<void(std::shared_ptr<const View>)> watcher) override {
    std::lock_guard lock(mutex_);
    watchers_.push_back(std::move(watcher));
  }

  absl::Status Register(const Node& self, absl::Time deadline) override {
    std::lock_guard lock(mutex_);
    if (view_->Find(self.id) == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("cluster file ", cluster_file_, " has no node \"", self.id.value, "\": add it there"));
    }
    if (!registered_) ++registrations_;
    registered_ = true;
    return absl::OkStatus();
  }
  absl::Status Update(const Node& self, absl::Time deadline) override {
    std::lock_guard lock(mutex_);
    return registered_ ? absl::OkStatus() : absl::FailedPreconditionError("Update before Register");
  }
  absl::Status Leave(absl::Time deadline) override {
    std::lock_guard lock(mutex_);
    registered_ = false;
    return absl::OkStatus();
  }

  MembershipHealth health() const override {
    std::lock_guard lock(mutex_);
    MembershipHealth health;
    health.connected = true;
    health.registered = registered_;
    health.registrations = registrations_;
    health.last_answer = last_read_;
    health.problem = problem_;
    return health;
  }

 private:
  void Poll() {
    std::unique_lock lock(mutex_);
    for (;;) {
      const absl::Time until = runtime_->Now() + kPoll;
      while (!stopping_ && changed_->WaitUntil(lock, until)) {
      }
      if (stopping_) return;
      lock.unlock();
      absl::StatusOr<ClusterFiles> read = ReadClusterFiles(cluster_file_);
      lock.lock();
      if (!read.ok()) {
        problem_ = absl::StrCat(std::string(read.status().message()), "; the last good view stays");
        continue;
      }
      problem_ = CheckSuccessor(read->file);
      if (!problem_.empty()) continue;
      lock.unlock();
      Take(*std::move(read));
      lock.lock();
    }
  }

  // Why this view cannot follow the one that was read last; "" if it can, or is the same.
  std::string CheckSuccessor(const View& read) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (read == file_view_ || read.number > file_view_.number) return "";
    return absl::StrCat("cluster file ", cluster_file_, " has changed but its view is ", read.number.value,
                        ", not above ", file_view_.number.value, ": raise it");
  }

  // Hands the view out if it is another than the last. A node whose address is not published (any more) keeps the one
  // that was known, and the number does not go down with such a file.
  void Take(ClusterFiles read) {
    View& view = read.view;
    std::vector<std::function<void(std::shared_ptr<const View>)>> watchers;
    std::shared_ptr<const View> current;
    {
      std::lock_guard lock(mutex_);
      file_view_ = std::move(read.file);
      last_read_ = runtime_->Now();
      if (view_ != nullptr) {
        KeepKnownAddresses(*view_, &view);
        view.number.value = std::max(view.number.value, view_->number.value + (view.nodes == view_->nodes ? 0 : 1));
        if (view == *view_) return;
      }
      view_ = current = std::make_shared<const View>(std::move(view));
      watchers = watchers_;
    }
    for (const auto& watcher : watchers) watcher(current);
  }

  static void KeepKnownAddresses(const View& before, View* now) {
    for (Node& node : now->nodes) {
      const Node* was = node.address.port == 0 ? before.Find(node.id) : nullptr;
      if (was != nullptr && was->address.host == node.address.host) node.address = was->address;
    }
  }

  const std::string cluster_file_;
  Runtime* const runtime_;
  const std::unique_ptr<Condition> changed_;
  mutable std::mutex mutex_;
  View file_view_ ABSL_GUARDED_BY(mutex_);  // as it was read
  std::shared_ptr<const View> view_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void(std::shared_ptr<const View>)>> watchers_ ABSL_GUARDED_BY(mutex_);
  std::string problem_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_read_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // that was good
  uint64_t registrations_ ABSL_GUARDED_BY(mutex_) = 0;
  bool registered_ ABSL_GUARDED_BY(mutex_) = false, stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Thread> polling_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Membership>> NewStaticMembership(std::string cluster_file, Runtime* runtime) {
  absl::StatusOr<ClusterFiles> files = ReadClusterFiles(cluster_file);
  if (!files.ok()) return files.status();
  return std::unique_ptr<Membership>(
      std::make_unique<StaticMembership>(std::move(cluster_file), *std::move(files), runtime));
}

}  // namespace kvist
