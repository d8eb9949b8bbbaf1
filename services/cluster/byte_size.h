// Sizes as people write them in files and flags: "256MiB", "1.5GiB", "4096".
//
// Units   B, KiB, MiB, GiB, TiB (powers of 1024) and kB, MB, GB, TB (powers of 1000); a bare number is bytes.
// Threads pure.
#ifndef KVIST_SERVICES_CLUSTER_BYTE_SIZE_H_
#define KVIST_SERVICES_CLUSTER_BYTE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvist {

// Errors: InvalidArgument quotes the text and shows what is understood; so does a size past 2^63.
absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text);

// "256.0 MiB": three digits are enough for a person; files keep the exact number.
std::string FormatByteSize(uint64_t size_bytes);

}  // namespace kvist

#endif  // KVIST_SERVICES_CLUSTER_BYTE_SIZE_H_
