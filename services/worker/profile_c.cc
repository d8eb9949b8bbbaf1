// The part of the C ABI that opens profiles.
#include "services/worker/profile_c.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/tile_bits.h"
#include "services/worker/c_call.h"

using kvist::GiveText;
using kvist::Guard;
using kvist::Require;

extern "C" {

kvist_code kvist_profile_open(const uint8_t* bytes, size_t n_bytes, kvist_profile** profile, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given = Require({{"bytes", bytes != nullptr || n_bytes == 0}, {"profile", profile}});
    if (!given.ok()) return given;
    *profile = nullptr;
    absl::StatusOr<std::shared_ptr<const kvist::OpenProfile>> open =
        kvist::OpenProfile::Open(std::string(reinterpret_cast<const char*>(bytes), n_bytes));
    if (!open.ok()) return open.status();
    *profile = new kvist_profile{*std::move(open)};
    return absl::OkStatus();
  });
}

void kvist_profile_destroy(kvist_profile* profile) { delete profile; }

kvist_code kvist_profile_digest(const kvist_profile* profile, uint8_t* digest, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    if (absl::Status given = Require({{"profile", profile}, {"digest", digest}}); !given.ok()) return given;
    std::copy(profile->open->digest().begin(), profile->open->digest().end(), digest);
    return absl::OkStatus();
  });
}

kvist_code kvist_profile_json(const kvist_profile* profile, char* json, size_t capacity, size_t* needed,
                              kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given =
        Require({{"profile", profile}, {"json", json != nullptr || capacity == 0}, {"needed", needed}});
    if (!given.ok()) return given;
    GiveText(kvist::ProfileJson(*profile->open), json, capacity, needed);
    return absl::OkStatus();
  });
}

kvist_code kvist_profile_bytes(const kvist_profile* profile, uint8_t* bytes, size_t capacity, size_t* needed,
                               kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given =
        Require({{"profile", profile}, {"bytes", bytes != nullptr || capacity == 0}, {"needed", needed}});
    if (!given.ok()) return given;
    const std::string& file = profile->open->file();
    *needed = file.size();
    if (*needed <= capacity) std::copy(file.begin(), file.end(), bytes);
    return absl::OkStatus();
  });
}

kvist_code kvist_profile_tile_bits(const kvist_profile* profile, const char* codec, float mean_bits, uint8_t* tile_bits,
                                   size_t n_tiles, kvist_error* error) {
  return Guard(error, [&]() -> absl::Status {
    const absl::Status given = Require({{"profile", profile}, {"codec", codec}, {"tile_bits", tile_bits}});
    if (!given.ok()) return given;
    const absl::StatusOr<kvist::Codec> known = kvist::ParseCodec(codec);
    if (!known.ok()) return known.status();
    const absl::StatusOr<std::vector<uint8_t>> bits =
        kvist::BitsByTile(profile->open->ForDecoding(), *known, mean_bits);
    if (!bits.ok()) return bits.status();
    if (bits->size() != n_tiles) {
      return absl::InvalidArgumentError(absl::StrCat("n_tiles is ", n_tiles, "; the profile has ", bits->size()));
    }
    std::copy(bits->begin(), bits->end(), tile_bits);
    return absl::OkStatus();
  });
}

}  // extern "C"
