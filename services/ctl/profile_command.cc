#include <algorithm>
#include <array>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/ctl/commands.h"
#include "services/ctl/input_files.h"
#include "services/ctl/open_client.h"
#include "services/ctl/report.h"
#include "services/worker/client.h"
#include "services/worker/open_profile.h"

namespace kvist {
namespace {

using ProfileRef = std::shared_ptr<const OpenProfile>;

absl::StatusOr<ProfileRef> FetchProfile(const Command& command, Transport* transport) {
  const absl::StatusOr<std::unique_ptr<Client>> client = OpenClient(command, AnyNamespace(), transport);
  if (!client.ok()) return client.status();
  const std::string bytes = absl::HexStringToBytes(command.profile);
  std::array<uint8_t, 16> digest;
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return (*client)->FetchProfile(digest);
}

absl::Status Show(const OpenProfile& profile, bool json, std::ostream& out) {
  Print(nlohmann::ordered_json::parse(ProfileJson(profile)), json, out);
  return absl::OkStatus();
}

absl::Status Put(const Command& command, Transport* transport, std::ostream& out) {
  const absl::StatusOr<ProfileRef> profile = ReadProfileFile(command.profile);
  if (!profile.ok()) return profile.status();
  const absl::StatusOr<std::unique_ptr<Client>> client = OpenClient(command, AnyNamespace(), transport);
  if (!client.ok()) return client.status();
  const PutProfileResult result = (*client)->PutProfile(**profile);
  Print({{"digest", DigestText((*profile)->digest())},
         {"nodes", result.nodes},
         {"kept", result.kept},
         {"present", result.present},
         {"failed", result.failed},
         {"failure", result.failure}},
        command.json, out);
  if (result.failed == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(result.failed, " nodes do not keep the profile: ", result.failure));
}

}  // namespace

absl::Status RunProfile(const Command& command, Transport* transport, std::ostream& out) {
  if (command.profile_act == ProfileAct::kPut) return Put(command, transport, out);
  const absl::StatusOr<ProfileRef> profile =
      IsDigest(command.profile) ? FetchProfile(command, transport) : ReadProfileFile(command.profile);
  if (!profile.ok()) return profile.status();
  if (command.profile_act == ProfileAct::kGet) {
    if (absl::Status written = WriteProfileFile(command.output_file, **profile); !written.ok()) return written;
  }
  return Show(**profile, command.json, out);
}

}  // namespace kvist
