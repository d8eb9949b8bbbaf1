#include "kernels/q/rans.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/header.h"

namespace kvist {
namespace {

// A state that takes a symbol is below frequency * 2^20. There a product with 2^44 / frequency, rounded up, fits 64 bits, and
// is too large by less than what would reach the next quotient.
constexpr int kReciprocalBits = 44;
static_assert(kReciprocalBits == 32 + kRansBits);

struct Reciprocals {
  std::array<uint64_t, kRansTotal + 1> of{};
  constexpr Reciprocals() {
    for (uint64_t i = 1; i <= kRansTotal; ++i) of[i] = ((uint64_t{1} << kReciprocalBits) + i - 1) / i;
  }
};
constexpr Reciprocals kReciprocals;

}  // namespace

RansTable::RansTable(absl::Span<const uint16_t> frequencies) {
  uint32_t next = 0;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequency[i] = frequencies[i];
    start[i] = uint16_t(next);
    std::fill_n(symbol.begin() + next, frequencies[i], uint8_t(i));
    next += frequencies[i];
  }
}

RansSteps::RansSteps(absl::Span<const RansTable> tables, uint32_t symbol_of_first) {
  steps.reserve(tables.size() * kRansTotal);
  for (uint32_t low = 0; low < kRansTotal; ++low) steps.push_back(kRansTotal << 19 | low << 5 | symbol_of_first);
  for (const RansTable& table : tables.subspan(1)) {
    for (uint32_t low = 0; low < kRansTotal; ++low) {
      const uint32_t symbol = table.symbol[low];
      steps.push_back(uint32_t{table.frequency[symbol]} << 19 | (low - table.start[symbol]) << 5 | symbol);
    }
  }
}

std::vector<uint8_t> RansEncoder::Finish() const {
  std::array<uint32_t, kRansLanes> states;
  states.fill(kRansLow);
  std::vector<uint16_t> words(steps_.size());  // filled from the end
  size_t first = words.size();
  for (size_t i = steps_.size(); i-- > 0;) {
    const Step& step = steps_[i];
    uint32_t state = states[step.lane];
    // Whether a word leaves is nothing that a processor could foresee.
    const bool full = state >= uint64_t{step.frequency} << (32 - step.bits);
    words[first - 1] = uint16_t(state);
    first -= full;
    state >>= full ? 16 : 0;
    if (step.bits == kRansBits) {
      const uint32_t quotient = uint32_t(state * kReciprocals.of[step.frequency] >> kReciprocalBits);
      states[step.lane] = (quotient << kRansBits) + (state - quotient * step.frequency) + step.start;
    } else {  // raw
      states[step.lane] = (state << step.bits) + step.start;
    }
  }
  const size_t count = words.size() - first;
  std::vector<uint8_t> stream(kRansStateBytes + 2 * count);
  for (size_t lane = 0; lane < kRansLanes; ++lane) StoreLe(states[lane], 4, &stream[4 * lane]);
  for (size_t i = 0; i < count; ++i) StoreLe(words[first + i], 2, &stream[kRansStateBytes + 2 * i]);
  return stream;
}

RansDecoder::RansDecoder(absl::Span<const uint8_t> stream) {
  if (stream.size() < kRansStateBytes) {
    states_.fill(kRansLow);
    missing_ = true;
    return;
  }
  for (size_t lane = 0; lane < kRansLanes; ++lane) states_[lane] = uint32_t(LoadLe(stream.data() + 4 * lane, 4));
  words_ = stream.subspan(kRansStateBytes);
}

absl::Status RansDecoder::Finish() const {
  if (missing_) return absl::DataLossError("its stream ends too early");
  if (!words_.empty()) return absl::DataLossError(absl::StrCat("its stream has ", words_.size(), " bytes too many"));
  for (size_t lane = 0; lane < kRansLanes; ++lane) {
    if (states_[lane] != kRansLow) {
      return absl::DataLossError(absl::StrCat("its stream ends lane ", lane, " in state ", states_[lane]));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvist
