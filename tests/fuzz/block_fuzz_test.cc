// Goal    No bytes make Parse, Verify, RangesFor or Decode crash, read out of bounds or write outside the pages.
// Method  Good blocks are mutated at random for a bounded number of rounds: bits flipped, fields set to edge values,
// pieces
//         swapped and cut. Half of the mutants get right checksums again, so that the checks behind the checksums are
//         reached. Bytes live in allocations of exactly their size and pages have guard values around them; the
//         sanitizer configurations see the rest. The seed is fixed and printed.
#include <memory>

#include "gtest/gtest.h"
#include "kernels/reference/decode.h"
#include "tests/kernels/block_builder.h"

namespace kvist {
namespace {

constexpr uint64_t kSeed = 0x6b766973745f3031;
constexpr int kRounds = 30000;
constexpr uint16_t kGuard = 0xbeef;
constexpr size_t kGuards = 64;

std::vector<std::vector<uint8_t>> Corpus() {
  std::vector<std::vector<uint8_t>> corpus;
  for (uint32_t head_dim : {64, 80, 256}) {
    for (Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder}) {
      const BlockShape shape = {2, 1, 16, head_dim, head_dim == 80 ? Dtype::kF16 : Dtype::kBf16};
      corpus.push_back(EncodeOrDie(shape, NormalValues(shape, head_dim), codec, 0));
      corpus.push_back(EncodeOrDie(shape, NormalValues(shape, head_dim), codec, 16, codec == Codec::kLadder ? 35 : 60));
    }
  }
  return corpus;
}

void MutateOnce(std::vector<uint8_t>& bytes, std::mt19937_64& random) {
  // Header, table and side pieces decide most; they get most of the attention.
  const size_t reach = random() % 4 == 0 ? bytes.size() : std::min<size_t>(bytes.size(), 700);
  const size_t at = random() % reach;
  switch (random() % 5) {
    case 0:
      bytes[at] ^= uint8_t(1 << random() % 8);
      break;
    case 1:
      bytes[at] = uint8_t(random());
      break;
    case 2:
      if (at + 4 <= bytes.size()) {
        constexpr uint32_t kEdges[] = {0, 1, 63, 64, 0x7fffffff, 0x80000000, 0xffffffc0, 0xffffffff};
        StoreLe(kEdges[random() % 8], 4, &bytes[at]);
      }
      break;
    case 3:
      bytes[at] = uint8_t(random() % 4);
      break;
    default: {
      const size_t half = std::min(reach - at, reach / 8) / 2;
      std::swap_ranges(&bytes[at], &bytes[at] + half, &bytes[at] + half);
    }
  }
}

// Makes all checksums right that a mutant's own table can point at.
void ResealAll(std::vector<uint8_t>& bytes) {
  if (bytes.size() < kHeaderBytes) return;
  const size_t pieces = LoadLe(&bytes[16], 4) * bytes[13];
  for (size_t i = 0; i < pieces && kHeaderBytes + (i + 1) * kPlaneEntryBytes <= bytes.size(); ++i) {
    uint8_t* entry = &bytes[kHeaderBytes + i * kPlaneEntryBytes];
    const uint64_t offset = LoadLe(entry, 4), size_bytes = LoadLe(entry + 4, 4);
    if (offset + size_bytes <= bytes.size()) StoreLe(XXH3_64bits(bytes.data() + offset, size_bytes), 8, entry + 8);
  }
  Reseal(bytes);
}

struct Reached {
  int parsed = 0, verified = 0, decoded = 0, refused_by_decode = 0;
};

void DecodeEveryWay(const BlockView& view, Reached& reached) {
  const BlockShape& shape = view.shape();
  if (shape.PlainBytes() > (1u << 20)) return;  // a mutant may claim a far larger shape; its planes cannot be there
  std::vector<uint16_t> memory(shape.Elements() + 2 * kGuards, kGuard), oracle = memory;
  for (int precision : {0, 2, 3, 4, 8, 16}) {
    for (Basis basis : {Basis::kOriginal, Basis::kKeptRotated}) {
      const auto pages = ContiguousPages(memory.data() + kGuards, shape, shape.tokens);
      const auto oracle_pages = ContiguousPages(oracle.data() + kGuards, shape, shape.tokens);
      const LayerRange layers = {0, shape.layers};
      const absl::Status status = Decode(view, layers, precision, basis, pages);
      ASSERT_EQ(status, reference::Decode(view, layers, precision, basis, oracle_pages));
      if (status.ok()) {
        ASSERT_EQ(memory, oracle);
      }
      reached.decoded += status.ok();
      reached.refused_by_decode += status.code() == absl::StatusCode::kDataLoss;
    }
  }
  for (size_t i = 0; i < kGuards; ++i) {
    ASSERT_EQ(memory[i], kGuard);
    ASSERT_EQ(memory[memory.size() - 1 - i], kGuard);
  }
}

void Read(const std::vector<uint8_t>& mutant, Reached& reached) {
  const auto exact = std::make_unique<uint8_t[]>(mutant.size());
  std::copy(mutant.begin(), mutant.end(), exact.get());
  const absl::Span<const uint8_t> bytes(exact.get(), mutant.size());
  (void)BlockView::PrefixBytes(bytes);
  const auto view = BlockView::Parse(bytes);
  if (!view.ok()) return;
  ++reached.parsed;
  for (int precision : {0, 2, 4, 8, 16}) {
    reached.verified += view->Verify(0, view->shape().layers, precision).ok();
    (void)view->RangesFor(0, view->shape().layers, precision);
  }
  (void)view->IdentityMismatch({}, {});
  DecodeEveryWay(*view, reached);
}

TEST(BlockFuzz, NoBytesMakeAReaderCrash) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const std::vector<std::vector<uint8_t>> corpus = Corpus();
  Reached reached;
  for (int round = 0; round < kRounds && !testing::Test::HasFailure(); ++round) {
    std::vector<uint8_t> mutant = corpus[random() % corpus.size()];
    for (uint64_t i = 0, count = 1 + random() % 4; i < count; ++i) MutateOnce(mutant, random);
    if (random() % 8 == 0) mutant.resize(random() % (mutant.size() + 1));
    if (random() % 4 != 0) ResealAll(mutant);
    Read(mutant, reached);
  }
  std::printf("seed %llu: %d rounds, %d parsed, %d verified, %d decoded, %d refused by decode\n",
              static_cast<unsigned long long>(kSeed), kRounds, reached.parsed, reached.verified, reached.decoded,
              reached.refused_by_decode);
  // Mutants must get past each gate, or the fuzzing has gone blind.
  EXPECT_GT(reached.parsed, kRounds / 20);
  EXPECT_GT(reached.decoded, kRounds / 20);
  EXPECT_GT(reached.refused_by_decode, 20);
}

}  // namespace
}  // namespace kvist
