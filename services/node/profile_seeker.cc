#include "services/node/profile_seeker.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "services/node/log.h"

namespace kvist {

ProfileSeeker::ProfileSeeker(Uses uses)
    : uses_(std::move(uses)), peers_(uses_.transport, uses_.runtime), thread_(uses_.runtime, 1) {}

void ProfileSeeker::Need(const ProfilePlace& place) {
  if (uses_.shelf->Has(place) || uses_.transport == nullptr) return;
  const absl::Time now = uses_.runtime->Now();
  {
    std::lock_guard lock(mutex_);
    if (next_.count(place) == 0 && next_.size() >= kMost) {
      std::erase_if(next_, [now](const auto& one) { return one.second <= now; });
    }
    if (next_.count(place) == 0 && next_.size() >= kMost) return;
    absl::Time& next = next_.try_emplace(place, absl::InfinitePast()).first->second;
    if (next > now) return;
    next = absl::InfiniteFuture();
  }
  thread_.Submit([this, place] { Seek(place); });
}

void ProfileSeeker::Seek(const ProfilePlace& place) {
  const std::shared_ptr<const View> view = uses_.view();
  bool found = false;
  for (size_t i = 0; view != nullptr && !found && !stopping_ && i < view->nodes.size(); ++i) {
    if (view->nodes[i].id != uses_.self) found = AskNode(view->nodes[i], *view, place);
  }
  if (!found && !stopping_) {
    Log(LogLevel::kWarning, "no other node has the profile of blocks that came",
        {{"digest", absl::BytesToHexString(place.digest)}, {"tenant", place.tenant}});
  }
  std::lock_guard lock(mutex_);
  if (found) {
    next_.erase(place);
  } else {
    next_[place] = uses_.runtime->Now() + kPause;
  }
}

bool ProfileSeeker::AskNode(const Node& node, const View& view, const ProfilePlace& place) {
  const absl::StatusOr<std::shared_ptr<Channel>> channel = peers_.Connect(node.id, view);
  if (!channel.ok()) return false;
  v1::GetProfileRequest request;
  request.set_digest(place.digest);
  request.set_tenant(place.tenant);
  absl::StatusOr<std::string> file = (*channel)->GetProfile(request, uses_.runtime->Now() + kQuestion);
  peers_.Report(node.id, *channel, file.status());
  if (!file.ok() || file->empty()) return false;
  absl::StatusOr<Pass> room = uses_.shelf->Reserve(place, file->size());
  absl::Status kept = room.status();
  if (room.ok()) kept = uses_.shelf->Keep(place, *std::move(file)).status();
  if (kept.ok()) {
    ++found_;
    return true;
  }
  Log(LogLevel::kWarning, "a profile that another node sent was not kept",
      {{"node", node.id.value}, {"why", std::string(kept.message())}});
  return false;
}

}  // namespace kvist
