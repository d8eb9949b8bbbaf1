#include "services/cluster/byte_size.h"

#include <array>
#include <optional>

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvist {
namespace {

struct Unit {
  absl::string_view name;
  uint64_t bytes;
};
constexpr uint64_t kKibi = 1024, kKilo = 1000;
constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                          {"B", 1},
                                          {"KiB", kKibi},
                                          {"MiB", kKibi* kKibi},
                                          {"GiB", kKibi* kKibi* kKibi},
                                          {"TiB", kKibi* kKibi* kKibi* kKibi},
                                          {"kB", kKilo},
                                          {"MB", kKilo* kKilo},
                                          {"GB", kKilo* kKilo* kKilo},
                                          {"TB", kKilo* kKilo* kKilo* kKilo}}};

// `number` is digits and dots. The whole part is exact; a double would lose bytes past 2^53.
std::optional<uint64_t> Multiply(absl::string_view number, uint64_t unit_bytes) {
  const size_t dot = number.find('.');
  const absl::string_view digits = number.substr(0, dot);
  uint64_t whole = 0;
  double fraction = 0;
  if (number == "." || (!digits.empty() && !absl::SimpleAtoi(digits, &whole))) return std::nullopt;
  if (dot != number.npos && !absl::SimpleAtod(absl::StrCat("0", number.substr(dot)), &fraction)) return std::nullopt;
  const absl::uint128 size_bytes =
      absl::uint128(whole) * unit_bytes + static_cast<uint64_t>(fraction * static_cast<double>(unit_bytes));
  if (size_bytes >> 63 != 0) return std::nullopt;
  return static_cast<uint64_t>(size_bytes);
}

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text) {
  const size_t end = text.find_first_not_of("0123456789.");
  const absl::string_view number = text.substr(0, end);
  const absl::string_view unit_name =
      end == text.npos ? absl::string_view() : absl::StripAsciiWhitespace(text.substr(end));
  for (const Unit& unit : kUnits) {
    if (unit.name != unit_name || number.empty()) continue;
    if (const std::optional<uint64_t> size_bytes = Multiply(number, unit.bytes)) return *size_bytes;
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
