// Goal    What was encoded is decoded, in the bytes of the specification; every other stream is refused, without a look
//         beyond its end.
// Method  A stream from vectors.py; random symbols of random tables; then every cut and every changed word.
#include "kernels/q/rans.h"

#include <functional>
#include <random>
#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "kernels/header.h"

namespace kvist {
namespace {

constexpr uint64_t kSeed = 20261129;
constexpr uint16_t kFrequencies[] = {1, 15, 80, 4000};
constexpr char kStream[] =
    "00804a000020990a00204c27091071051bf01400463c05000f1015004212500508d0bb27e745a60a409049000dc0cc1400e0"
    "020000d0a01400804a000020990a0000810037600ac001300c0000000e008f00500200805a4b00a01b005c0a00c0dd015e02"
    "0f200650409000600080090000a06b0043900f20004000601700008059003660c5cb3060008004000500006027014b904366"
    "30600040524e002013001400d5012d3082330cb04090004000000100002063018408076000400e000f001000d10152c00cb0"
    "1c001d001e00df01000402100a000b000c004d000e04180019001a001b001c00";

std::vector<uint8_t> SpecifiedStream() {
  const std::string bytes = absl::HexStringToBytes(kStream);
  return {bytes.begin(), bytes.end()};
}

TEST(Rans, WritesAndReadsTheStreamOfTheSpecification) {
  const RansTable table(kFrequencies);
  const std::vector<uint8_t> stream = SpecifiedStream();
  RansEncoder encoder;
  RansDecoder decoder(stream);
  for (uint32_t i = 0; i < 160; ++i) {
    const uint32_t symbol = i * i / 7 % 4;
    encoder.Symbol(i % 16, table, symbol);
    EXPECT_EQ(decoder.Symbol(i % 16, table), symbol) << i;
    if (symbol != 0) continue;
    encoder.Raw(i % 16, 5, i % 32);
    EXPECT_EQ(decoder.Raw(i % 16, 5), i % 32) << i;
  }
  EXPECT_TRUE(decoder.Finish().ok());
  EXPECT_EQ(encoder.Finish(), stream);
}

std::vector<uint16_t> RandomFrequencies(std::mt19937_64& random) {
  std::vector<uint16_t> frequencies(1 + random() % 32);
  uint32_t left = kRansTotal;
  for (size_t i = 0; i + 1 < frequencies.size(); ++i) {
    frequencies[i] = uint16_t(random() % (left + 1));
    left -= frequencies[i];
  }
  frequencies.back() = uint16_t(left);
  return frequencies;
}

TEST(Rans, GivesBackRandomSymbolsAndBitsOfEveryLength) {
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 100; ++round) {
    const std::vector<uint16_t> frequencies = RandomFrequencies(random);
    const RansTable table(frequencies);
    struct Step {
      size_t lane;
      int bits;  // -1: a symbol
      uint32_t value;
    };
    std::vector<Step> steps;
    RansEncoder encoder;
    for (int i = 0; i < 1000; ++i) {
      Step step = {random() % kRansLanes, int(random() % (kRansMaxRawBits + 2)) - 1, 0};
      if (step.bits < 0) {
        step.value = table.symbol[random() % kRansTotal];
        encoder.Symbol(step.lane, table, step.value);
      } else {
        step.value = uint32_t(random()) & ((1u << step.bits) - 1);
        encoder.Raw(step.lane, step.bits, step.value);
      }
      steps.push_back(step);
    }
    const std::vector<uint8_t> stream = encoder.Finish();
    RansDecoder decoder(stream);
    for (const Step& step : steps) {
      ASSERT_EQ(step.bits < 0 ? decoder.Symbol(step.lane, table) : decoder.Raw(step.lane, step.bits), step.value)
          << "seed " << kSeed << ", round " << round;
    }
    ASSERT_TRUE(decoder.Finish().ok()) << "seed " << kSeed << ", round " << round;
  }
}

TEST(Rans, CostsWhatTheFrequenciesSay) {
  const RansTable table(kFrequencies);
  RansEncoder encoder;
  constexpr size_t kSymbols = 16000;
  for (size_t i = 0; i < kSymbols; ++i) encoder.Symbol(i % 16, table, 2);
  const double bits = 8.0 * (encoder.Finish().size() - kRansStateBytes);
  EXPECT_NEAR(bits / kSymbols, 5.678, 0.02);  // log2(4096 / 80)
}

// Decodes the specified stream's steps and says how it ended; the copy is exactly as long as the stream.
absl::Status DecodeAll(const std::vector<uint8_t>& bytes, std::vector<uint32_t>* symbols = nullptr) {
  const std::vector<uint8_t> stream(bytes.begin(), bytes.end());
  const RansTable table(kFrequencies);
  RansDecoder decoder(stream);
  for (size_t i = 0; i < 160; ++i) {
    uint32_t symbol = decoder.Symbol(i % 16, table);
    if (symbol == 0) symbol = 4 + decoder.Raw(i % 16, 5);
    if (symbols != nullptr) symbols->push_back(symbol);
  }
  return decoder.Finish();
}

TEST(Rans, EveryCutAndEveryLongerStreamIsRefused) {
  const std::vector<uint8_t> stream = SpecifiedStream();
  ASSERT_TRUE(DecodeAll(stream).ok());
  for (size_t size = 0; size < stream.size(); ++size) {
    const absl::Status status = DecodeAll({stream.begin(), stream.begin() + size});
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << size << " bytes";
  }
  std::vector<uint8_t> longer = stream;
  longer.push_back(0);
  EXPECT_EQ(DecodeAll(longer).ToString(), "DATA_LOSS: its stream has 1 bytes too many");
}

TEST(Rans, EveryFlippedBitIsAnErrorOrOtherSymbols) {
  const std::vector<uint8_t> stream = SpecifiedStream();
  std::vector<uint32_t> good;
  ASSERT_TRUE(DecodeAll(stream, &good).ok());
  size_t refused = 0;
  for (size_t bit = 0; bit < 8 * stream.size(); ++bit) {
    std::vector<uint8_t> changed = stream;
    changed[bit / 8] ^= uint8_t(1 << bit % 8);
    std::vector<uint32_t> symbols;
    const absl::Status status = DecodeAll(changed, &symbols);
    EXPECT_TRUE(status.ok() ? symbols != good : status.code() == absl::StatusCode::kDataLoss) << bit;
    refused += !status.ok();
  }
  EXPECT_GT(refused, 8 * stream.size() / 2);  // raw bits are anything
}

TEST(Rans, AnyBytesAreReadToTheirEnd) {
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 1000; ++round) {
    std::vector<uint8_t> bytes(random() % 256);
    for (uint8_t& byte : bytes) byte = uint8_t(random());
    EXPECT_EQ(DecodeAll(bytes).code(), absl::StatusCode::kDataLoss) << "seed " << kSeed << ", round " << round;
  }
}

}  // namespace
}  // namespace kvist
