#include "services/worker/open_profile.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "services/worker/json_text.h"

namespace kvist {
namespace {

const char* RopeName(RopeStyle style) {
  switch (style) {
    case RopeStyle::kNone:
      return "none";
    case RopeStyle::kHalves:
      return "halves";
    case RopeStyle::kInterleaved:
      return "interleaved";
  }
  return "unknown";
}

}  // namespace

absl::StatusOr<std::shared_ptr<const OpenProfile>> OpenProfile::Open(std::string file) {
  absl::StatusOr<Profile> profile =
      Profile::Parse(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size()));
  if (!profile.ok()) return profile.status();
  return std::make_shared<const OpenProfile>(std::move(file), *std::move(profile));
}

absl::StatusOr<const Profile*> OpenProfile::ForEncoding() const {
  std::call_once(once_, [this] { prepared_ = profile_.PrepareEncoding(); });
  if (!prepared_.ok()) return prepared_;
  return &profile_;
}

std::string ProfileJson(const OpenProfile& profile) {
  const ProfileFacts& facts = profile.facts();
  nlohmann::ordered_json json = {{"digest", DigestText(profile.digest())},
                                 {"file_bytes", profile.file().size()},
                                 {"layers", facts.layers},
                                 {"heads", facts.heads},
                                 {"head_dim", facts.head_dim},
                                 {"groups", facts.groups},
                                 {"rope", RopeName(facts.rope)},
                                 {"rope_factor", facts.rope_factor},
                                 {"step", facts.step},
                                 {"layers_before", facts.layers_before},
                                 {"key_from_value", facts.key_from_value},
                                 {"layers_between_resets", facts.layers_between_resets}};
  const nlohmann::ordered_json notes = nlohmann::ordered_json::parse(facts.notes, nullptr, /*allow_exceptions=*/false);
  json["notes"] = notes.is_discarded() ? nlohmann::ordered_json(facts.notes) : notes;
  return JsonText(json);
}

}  // namespace kvist
