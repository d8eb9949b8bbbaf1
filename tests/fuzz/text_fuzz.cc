// Goal    Byte sizes, addresses, retry hints and names are read exactly or refused with a sentence.
// Input   One byte that says which reader, then the text.
// Method  Sizes against exact integer arithmetic; what is accepted is in its one canonical form, so that two texts are
//         never one address; what we write we read again.
#include <cmath>
#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"
#include "kernels/block_format.h"
#include "services/cluster/byte_size.h"
#include "services/cluster/view.h"
#include "services/transport/retry_hint.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate whole_size("a size without a fraction"), fraction("a size with a fraction"), no_size("no size"),
    address_gate("an address"), no_address("no address"), hint_gate("a retry hint"), name_gate("a name of a codec");

// The value of "DIGITS UNIT", exactly; nothing for fractions and what does not fit 63 bits.
std::optional<uint64_t> ExactSize(const std::string& text) {
  unsigned __int128 value = 0;
  size_t at = 0;
  for (; at < text.size() && absl::ascii_isdigit(text[at]); ++at) {
    value = value * 10 + static_cast<unsigned>(text[at] - '0');
    if (value >> 64 != 0) return std::nullopt;
  }
  const std::string unit(absl::StripAsciiWhitespace(absl::string_view(text).substr(at)));
  unsigned __int128 scale = 0;
  if (unit.empty() || unit == "B") scale = 1;
  for (const auto& [names, base] : {std::pair("KMGT", 1024), std::pair("kMGT", 1000)}) {
    unsigned __int128 power = 1;
    for (const char* letter = names; *letter != '\0'; ++letter) {
      power *= static_cast<unsigned>(base);
      if (unit == std::string(1, *letter) + (base == 1024 ? "iB" : "B")) scale = power;
    }
  }
  if (at == 0 || scale == 0 || value * scale >> 63 != 0) return std::nullopt;
  return static_cast<uint64_t>(value * scale);
}

void CheckSize(const std::string& text) {
  const absl::StatusOr<uint64_t> size = ParseByteSize(text);
  KVIST_HOLDS(size.ok() || !size.status().message().empty(), "refused without a word");
  const std::optional<uint64_t> exact = ExactSize(text);
  if (exact) KVIST_HOLDS(size.ok() && *size == *exact, text, " is ", *exact, ", read as ", size.value_or(0));
  (exact ? whole_size : size.ok() ? fraction : no_size).Pass();
  if (!size.ok()) return;
  KVIST_HOLDS(*size >> 63 == 0, text, " is past 2^63");
  const double value = std::strtod(text.c_str(), nullptr);
  KVIST_HOLDS(value < 1 || static_cast<double>(*size) > value * 0.999 - 1, text, " is not ", *size);
  KVIST_HOLDS(ParseByteSize(absl::StrCat(*size)).value_or(0) == *size, "a number of bytes is not read as it is");
  if (*size >> 62 != 0) return;  // rounded up, it would be past the end
  const absl::StatusOr<uint64_t> rounded = ParseByteSize(FormatByteSize(*size));
  KVIST_HOLDS(rounded.ok(), FormatByteSize(*size), ": ", rounded.status().message());
  const double off = std::abs(static_cast<double>(*rounded) - static_cast<double>(*size));
  KVIST_HOLDS(off <= 0.051 * static_cast<double>(*size), FormatByteSize(*size), " is said of ", *size);
}

void CheckAddress(const std::string& text) {
  const absl::StatusOr<Address> address = ParseAddress(text);
  if (!address.ok()) {
    KVIST_HOLDS(!address.status().message().empty(), "refused without a word");
    return no_address.Pass();
  }
  KVIST_HOLDS(address->ToString() == text, "\"", text, "\" is a second way to write ", address->ToString());
  for (const char c : address->host) KVIST_HOLDS(absl::ascii_isgraph(c), "a host with the byte ", static_cast<int>(c));
  address_gate.Pass();
}

void CheckHint(const std::string& text) {
  absl::Status status = absl::ResourceExhaustedError("full");
  status.SetPayload(kRetryHintPayload, absl::Cord(text));
  const std::optional<absl::Duration> hint = RetryHint(status);
  if (!hint) return;
  KVIST_HOLDS(*hint >= absl::ZeroDuration(), "a hint into the past");
  KVIST_HOLDS(RetryHint(WithRetryHint(absl::ResourceExhaustedError("full"), *hint)) == hint,
              "a hint changes on its way");
  hint_gate.Pass();
}

void CheckNames(const std::string& text) {
  const absl::StatusOr<Codec> codec = ParseCodec(text);
  const absl::StatusOr<Dtype> dtype = ParseDtype(text);
  if (codec.ok()) KVIST_HOLDS(CodecName(*codec) == text, "two names of one codec");
  if (dtype.ok()) KVIST_HOLDS(DtypeName(*dtype) == text, "two names of one dtype");
  if (codec.ok()) name_gate.Pass();
}

void Run(fuzz::Input input) {
  const uint64_t reader = input.Below(4);
  const std::string text = input.RestText();
  if (reader == 0) CheckSize(text);
  if (reader == 1) CheckAddress(text);
  if (reader == 2) CheckHint(text);
  if (reader == 3) CheckNames(text);
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
