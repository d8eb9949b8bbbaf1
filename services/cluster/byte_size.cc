#include "services/cluster/byte_size.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvist {
namespace {

struct Unit {
  absl::string_view name;
  double bytes;
};
constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                          {"B", 1},
                                          {"KiB", 1024.0},
                                          {"MiB", 1024.0 * 1024},
                                          {"GiB", 1024.0 * 1024 * 1024},
                                          {"TiB", 1024.0 * 1024 * 1024 * 1024},
                                          {"kB", 1e3},
                                          {"MB", 1e6},
                                          {"GB", 1e9},
                                          {"TB", 1e12}}};

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text) {
  const size_t digits = text.find_first_not_of("0123456789.");
  const absl::string_view number = text.substr(0, digits);
  const absl::string_view unit_name =
      digits == text.npos ? absl::string_view() : absl::StripAsciiWhitespace(text.substr(digits));
  double count = 0;
  if (!number.empty() && absl::SimpleAtod(number, &count)) {
    for (const Unit& unit : kUnits) {
      if (unit.name != unit_name) continue;
      const double size_bytes = count * unit.bytes;
      if (size_bytes < 9.2e18) return static_cast<uint64_t>(size_bytes);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a size: write a number and a unit, as in \"256MiB\" or \"8GiB\""));
}

std::string FormatByteSize(uint64_t size_bytes) {
  double value = static_cast<double>(size_bytes);
  if (value < 1024) return absl::StrCat(size_bytes, " B");
  constexpr std::array<const char*, 4> kNames = {"KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (value /= 1024; value >= 1024 && unit + 1 < kNames.size(); value /= 1024) ++unit;
  return absl::StrFormat("%.1f %s", value, kNames[unit]);
}

}  // namespace kvist
