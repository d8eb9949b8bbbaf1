// Goal    The device's checksum is xxhash's XXH3-64 for every length, and a piece that differs refuses its block.
// Method  Pieces of every length from 0 to 2100 and around larger boundaries, of random bytes, on the emulated grid,
//         with tables made by hand; a wrong checksum is one bit away.
#include "kernels/cuda/checksum.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/grid.h"

// After "kernels/*.h": macros of the hash.
#include <xxhash.h>

namespace kvist::cuda {
namespace {

class Checksum : public testing::Test {
 protected:
  Checksum() : bytes_(new (std::align_val_t{64}) uint8_t[kBytes]) {
    std::mt19937_64 random(5);
    for (size_t i = 0; i < kBytes; ++i) bytes_[i] = uint8_t(random());
  }
  ~Checksum() override { ::operator delete[](bytes_, std::align_val_t{64}); }

  void Add(uint32_t length, uint64_t flipped) {
    const uint32_t offset = uint32_t(64 * (pieces_.size() % 50));
    const uint64_t kibs = xxh3::ChainedKibs(length);
    for (uint32_t kib = 0; kib < kibs; kib += kSumsOfBlock) items_.push_back({uint32_t(pieces_.size()), kib});
    pieces_.push_back(
        {XXH3_64bits(bytes_ + offset, length) ^ flipped, sums_, {offset, length}, uint32_t(pieces_.size())});
    BlockTask block{};
    block.bytes = bytes_;
    blocks_.push_back(block);
    sums_ += kibs;
  }

  std::vector<uint32_t> Run() {
    std::vector<uint32_t> status(blocks_.size());
    std::vector<KibSums> sums(sums_);
    DecodeTables tables{};
    tables.blocks = blocks_.data();
    tables.pieces = pieces_.data();
    tables.sum_items = items_.data();
    tables.status = status.data();
    tables.sums = sums.data();
    const uint32_t pieces = uint32_t(pieces_.size()), per_block = ComparePiecesBody::kPieces;
    RunGrid<SumKibsBody>(tables, uint32_t(items_.size()));
    RunGrid<ComparePiecesBody>({tables, pieces}, (pieces + per_block - 1) / per_block);
    return status;
  }

  static constexpr size_t kBytes = 300000;
  uint8_t* bytes_;
  uint64_t sums_ = 0;
  std::vector<BlockTask> blocks_;
  std::vector<PieceTask> pieces_;
  std::vector<SumItem> items_;
};

std::vector<uint32_t> Lengths() {
  std::vector<uint32_t> lengths;
  for (uint32_t length = 0; length <= 2100; ++length) lengths.push_back(length);
  for (uint32_t base : {4096, 16 * 1024, 17 * 1024, 32 * 1024, 100000, 262144}) {
    for (uint32_t length : {base - 1, base, base + 1, base + 63, base + 64, base + 65}) lengths.push_back(length);
  }
  return lengths;
}

TEST_F(Checksum, EqualsXxhashForEveryLength) {
  for (uint32_t length : Lengths()) Add(length, 0);
  const std::vector<uint32_t> status = Run();
  for (size_t i = 0; i < status.size(); ++i) EXPECT_EQ(status[i], 0u) << Lengths()[i] << " bytes";
}

TEST_F(Checksum, OneWrongBitRefusesTheBlock) {
  for (uint32_t length : Lengths()) Add(length, uint64_t{1} << (length % 64));
  const std::vector<uint32_t> status = Run();
  for (size_t i = 0; i < status.size(); ++i) EXPECT_EQ(status[i], uint32_t(Refusal::kChecksum)) << Lengths()[i];
}

}  // namespace
}  // namespace kvist::cuda
