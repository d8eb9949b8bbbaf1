// Sixteen interleaved rANS coders over one run of words: the entropy code of codec q (FORMAT.md, "Stream").
//
// Shapes  stream  u32 state[16], then u16 words. A coder is a lane; which lane codes what, and in which order, is the
//                 caller's: both sides must ask for the same.
// Units   frequencies of 4096; at most 32 symbols a table.
// Threads a coder belongs to one thread; tables are immutable.
// Errors  Finish: DataLoss  the stream is too short or too long, or a state is not where the encoder began.
// Why     One division-free chain a lane, sixteen lanes side by side: what a vector of AVX-512 or half a warp holds. All
//         lanes take their words from one run, so that a short stream pays for states alone, 64 bytes.
//         A reader of hostile bytes never stops early: past the end it reads zeros, and says so at the end. What it has
//         decoded until then are symbols of the table, never anything else.
#ifndef KVIST_KERNELS_Q_RANS_H_
#define KVIST_KERNELS_Q_RANS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace kvist {

inline constexpr size_t kRansLanes = 16;
inline constexpr int kRansBits = 12;
inline constexpr uint32_t kRansTotal = 1 << kRansBits;
inline constexpr uint32_t kRansLow = 1 << 16;  // a state's least value, and its first at the encoder
inline constexpr size_t kRansStateBytes = 4 * kRansLanes;
inline constexpr int kRansMaxRawBits = 16;

struct RansTable {
  // REQUIRES: at most 32 frequencies with sum kRansTotal. A symbol of frequency 0 cannot be coded.
  explicit RansTable(absl::Span<const uint16_t> frequencies);
  RansTable() = default;

  std::array<uint16_t, 32> frequency{}, start{};
  std::array<uint8_t, kRansTotal> symbol{};  // by the lower bits of a state
};

// A decoding step of each of several tables by the lower bits of a state, in one word: what a vector of lanes gathers.
//   frequency << 19 | (state mod 4096 - start) << 5 | symbol
// The first table is not coded: its steps leave the state as it is.
struct RansSteps {
  RansSteps() = default;
  RansSteps(absl::Span<const RansTable> tables, uint32_t symbol_of_first);
  std::vector<uint32_t> steps;  // [tables][kRansTotal]
};

// Collects symbols in the order in which they will be decoded; a stack turns them around.
class RansEncoder {
 public:
  // `expected`: about how many symbols will come.
  explicit RansEncoder(size_t expected = 0) { steps_.reserve(expected); }

  // REQUIRES: table.frequency[symbol] > 0.
  void Symbol(size_t lane, const RansTable& table, uint32_t symbol) {
    steps_.push_back({table.frequency[symbol], table.start[symbol], uint16_t(lane), kRansBits});
  }
  // REQUIRES: bits <= kRansMaxRawBits, value < 2^bits.
  void Raw(size_t lane, int bits, uint32_t value) {
    steps_.push_back({1, uint16_t(value), uint16_t(lane), uint16_t(bits)});
  }
  std::vector<uint8_t> Finish() const;

 private:
  struct Step {
    uint16_t frequency, start, lane, bits;
  };
  std::vector<Step> steps_;
};

class RansDecoder {
 public:
  explicit RansDecoder(absl::Span<const uint8_t> stream);

  uint32_t Symbol(size_t lane, const RansTable& table) {
    uint32_t& state = states_[lane];
    const uint32_t low = state & (kRansTotal - 1), symbol = table.symbol[low];
    state = table.frequency[symbol] * (state >> kRansBits) + low - table.start[symbol];
    Refill(state);
    return symbol;
  }
  // REQUIRES: bits <= kRansMaxRawBits.
  uint32_t Raw(size_t lane, int bits) {
    uint32_t& state = states_[lane];
    const uint32_t value = state & ((1u << bits) - 1);
    state >>= bits;
    Refill(state);
    return value;
  }
  absl::Status Finish() const;

  // For a target that does many lanes' steps at once, and leaves here what those would have left.
  std::array<uint32_t, kRansLanes>& states() { return states_; }
  absl::Span<const uint8_t>& words() { return words_; }
  void NoteMissing() { missing_ = true; }

 private:
  void Refill(uint32_t& state) {
    if (state < kRansLow) state = state << 16 | NextWord();
  }
  uint32_t NextWord() {
    if (words_.size() < 2) {
      missing_ = true;
      return 0;
    }
    const uint32_t word = words_[0] | uint32_t{words_[1]} << 8;
    words_.remove_prefix(2);
    return word;
  }

  absl::Span<const uint8_t> words_;
  std::array<uint32_t, kRansLanes> states_{};
  bool missing_ = false;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_RANS_H_
