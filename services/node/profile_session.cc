// PutProfile and GetProfile between the handlers and the shelf.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/node/handlers_state.h"
#include "services/node/profile_shelf.h"
#include "services/transport/profile_digest.h"

namespace kvist {
namespace {

constexpr absl::Duration kMostPutProfile = absl::Minutes(1);  // what is being uploaded holds room

absl::Status NoShelf() { return absl::FailedPreconditionError("this node keeps no profiles"); }

class ProfilePutImpl final : public ProfilePutSession {
 public:
  ProfilePutImpl(std::shared_ptr<HandlersState> node, const Caller& caller)
      : node_(std::move(node)),
        caller_(caller),
        timer_(&node_->metrics(), Method::kPutProfile, node_->options.runtime, node_->options.slow_call) {
    timer_.SetStatus(absl::CancelledError("the stream ended before the profile was whole; it was not kept"));
  }

  absl::StatusOr<bool> Name(const v1::ProfileName& name) override {
    const absl::StatusOr<bool> wanted = TryName(name);
    if (!wanted.ok() || !*wanted) timer_.SetStatus(wanted.status());
    return wanted;
  }

  absl::Status Write(absl::string_view bytes) override {
    if (size_bytes_ == 0) return absl::FailedPreconditionError("bytes of a profile came before its name");
    if (bytes.size() > size_bytes_ - file_.size()) {
      return Ended(absl::OutOfRangeError(absl::StrCat("more bytes came than the ", size_bytes_, " of the profile")));
    }
    file_.append(bytes.data(), bytes.size());
    return absl::OkStatus();
  }

  absl::StatusOr<v1::PutProfileResponse> Commit() override {
    if (size_bytes_ == 0 || file_.size() < size_bytes_) {
      return Ended(absl::InvalidArgumentError(
          absl::StrCat("the stream ended at ", file_.size(), " of the profile's ", size_bytes_, " bytes")));
    }
    const absl::StatusOr<bool> kept = node_->options.profiles->Keep(place_, std::move(file_));
    timer_.SetStatus(kept.status());
    if (!kept.ok()) return kept.status();
    v1::PutProfileResponse response;
    response.set_kept(*kept);
    return response;
  }

 private:
  absl::StatusOr<bool> TryName(const v1::ProfileName& name) {
    if (size_bytes_ > 0) return absl::FailedPreconditionError("a profile is put by one name, and then its bytes");
    const absl::StatusOr<std::string> tenant = node_->TenantNameFor(caller_, name.tenant());
    if (!tenant.ok()) return tenant.status();
    place_ = {*tenant, name.digest()};
    if (node_->options.profiles->Has(place_)) return false;
    absl::StatusOr<Pass> room = node_->options.profiles->Reserve(place_, name.size_bytes());
    if (!room.ok()) return room.status();
    room_ = *std::move(room);
    size_bytes_ = name.size_bytes();
    return true;
  }
  absl::Status Ended(absl::Status why) {
    timer_.SetStatus(why);
    return why;
  }

  const std::shared_ptr<HandlersState> node_;
  const Caller caller_;
  RpcTimer timer_;
  ProfilePlace place_;
  Pass room_;
  uint64_t size_bytes_ = 0;  // 0: it has no name yet
  std::string file_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ProfilePutSession>> OpenProfilePutSession(std::shared_ptr<HandlersState> state,
                                                                         const Caller& caller, absl::Time deadline) {
  absl::Status may = CheckMay(caller, Permission::kWrite);
  if (may.ok() && state->options.profiles == nullptr) may = NoShelf();
  if (may.ok() && deadline > state->Now() + kMostPutProfile + absl::Seconds(1)) {  // it travels rounded up
    may = absl::InvalidArgumentError("PutProfile needs a deadline of at most a minute: set one on the call");
  }
  if (may.ok()) return std::make_unique<ProfilePutImpl>(std::move(state), caller);
  RpcTimer(&state->metrics(), Method::kPutProfile, state->options.runtime, state->options.slow_call).SetStatus(may);
  return may;
}

absl::StatusOr<std::shared_ptr<const std::string>> FindProfile(HandlersState* state, const Caller& caller,
                                                               const v1::GetProfileRequest& request) {
  const absl::StatusOr<std::string> tenant = state->TenantNameFor(caller, request.tenant());
  if (!tenant.ok()) return tenant.status();
  if (request.digest().size() != kProfileDigestBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a profile's digest has 16 bytes, not ", request.digest().size()));
  }
  if (state->options.profiles == nullptr) return std::shared_ptr<const std::string>();
  return state->options.profiles->Find({*tenant, request.digest()});
}

}  // namespace kvist
