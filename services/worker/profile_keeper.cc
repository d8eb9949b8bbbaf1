#include "services/worker/profile_keeper.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/transport/profile_digest.h"

namespace kvist {

ProfileKeeper::ProfileKeeper(Uses uses, ProfileRef given)
    : uses_(std::move(uses)), profile_(std::move(given)), thread_(uses_.runtime, 1) {}

ProfileRef ProfileKeeper::profile() const {
  std::lock_guard lock(mutex_);
  return profile_;
}

void ProfileKeeper::Need(const std::shared_ptr<NodeLink>& node) {
  if (uses_.digest == std::array<uint8_t, 16>{}) return;
  const absl::Time now = uses_.runtime->Now();
  {
    std::lock_guard lock(mutex_);
    if (profile_ != nullptr || fetching_ || now < next_) return;
    fetching_ = true;
  }
  thread_.Submit([this, node] { FetchOwn(node); });
}

void ProfileKeeper::FetchOwn(const std::shared_ptr<NodeLink>& first) {
  // Whoever asks for one that no node has in time begins again later: each node has a whole deadline.
  const absl::Status fetched = Fetch(uses_.digest, first, absl::InfiniteFuture()).status();
  const absl::Time now = uses_.runtime->Now();
  std::lock_guard lock(mutex_);
  fetching_ = false;
  if (fetched.ok()) return;
  next_ = now + pause_;
  pause_ = std::min(2 * pause_, kLongestPause);
}

absl::StatusOr<ProfileRef> ProfileKeeper::Fetch(const std::array<uint8_t, 16>& digest,
                                                const std::shared_ptr<NodeLink>& first, absl::Time deadline) {
  std::vector<std::shared_ptr<NodeLink>> nodes;
  if (first != nullptr) nodes.push_back(first);
  const LinkedViewRef view = uses_.view();
  for (const std::shared_ptr<NodeLink>& link : view->links) {
    if (link != first) nodes.push_back(link);
  }
  std::string said;
  for (const std::shared_ptr<NodeLink>& node : nodes) {
    const absl::Time now = uses_.runtime->Now();
    if (stopping_ || now >= deadline) break;
    absl::StatusOr<ProfileRef> profile =
        FetchFrom(*node, digest, std::min(deadline, now + std::min(uses_.deadline, kLongestCall)));
    if (!profile.ok()) {
      absl::StrAppend(&said, said.empty() ? "" : "; ", node->id(), ": ", profile.status().message());
      continue;
    }
    ++uses_.counters->fetched_profiles;
    if (digest == uses_.digest) {
      std::lock_guard lock(mutex_);
      if (profile_ == nullptr) profile_ = *profile;
      return profile_;
    }
    return profile;
  }
  return absl::NotFoundError(absl::StrCat("no node gave profile ", DigestText(digest),
                                          " (put it with `kvist profile put`, or give the file): ", said));
}

absl::StatusOr<ProfileRef> ProfileKeeper::FetchFrom(NodeLink& node, const std::array<uint8_t, 16>& digest,
                                                    absl::Time deadline) {
  const std::string name(digest.begin(), digest.end());
  v1::GetProfileRequest request;
  request.set_digest(name);
  absl::StatusOr<std::string> file =
      node.Ask<std::string>([&](Channel& channel) { return channel.GetProfile(request, deadline); });
  if (!file.ok()) return file.status();
  if (file->empty()) return absl::NotFoundError("it does not have it");
  if (ProfileDigest(*file) != name) return Refused(absl::DataLossError("it sent other bytes"));
  absl::StatusOr<ProfileRef> profile = OpenProfile::Open(*std::move(file));
  if (!profile.ok()) return Refused(profile.status());
  if (digest != uses_.digest) return profile;
  absl::Status fits = CheckProfileIsOf((*profile)->ForDecoding(), uses_.shape);
  if (!fits.ok()) return Refused(std::move(fits));
  return profile;
}

absl::Status ProfileKeeper::Refused(absl::Status why) {
  ++uses_.counters->refused_profiles;
  return why;
}

}  // namespace kvist
