// Writes the inputs that cannot be written by hand: blocks, and what holds blocks. `make_corpus FOLDER` fills
// FOLDER/<target>/; the committed corpus was made by it, and a change of a format is followed by running it again.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "kernels/codec.h"
#include "kernels/half.h"

namespace kvist {
namespace {

using Bytes = std::string;

std::filesystem::path folder;

void Write(const std::string& target, const std::string& name, const Bytes& bytes) {
  std::filesystem::create_directories(folder / target);
  std::ofstream file(folder / target / name, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) {
    std::fprintf(stderr, "cannot write %s/%s\n", target.c_str(), name.c_str());
    std::exit(1);
  }
}

std::vector<uint16_t> NormalValues(const BlockShape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(shape.Elements());
  for (uint16_t& value : values) value = Narrow(normal(random), shape.dtype);
  return values;
}

Bytes EncodedBlock(const BlockShape& shape, Codec codec, uint32_t first_position, float floor_db, bool with_infinity) {
  std::vector<uint16_t> values = NormalValues(shape, shape.head_dim);
  if (with_infinity) values[5] = Narrow(INFINITY, shape.dtype);
  BlockIdentity identity;
  for (size_t i = 0; i < identity.key.size(); ++i) identity.key[i] = static_cast<uint8_t>(i + 1);
  identity.first_position = first_position;
  std::vector<uint8_t> block(MaxBlockBytes(shape, codec));
  const auto size = Encode(identity, shape, ContiguousPages<const uint16_t>(values.data(), shape, shape.tokens),
                           {codec, floor_db}, absl::MakeSpan(block));
  if (!size.ok()) {
    std::fprintf(stderr, "%s\n", std::string(size.status().message()).c_str());
    std::exit(1);
  }
  return Bytes(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(*size));
}

// Layers [0, 1) or [0, 2), precision and basis as block_fuzz.cc reads them.
Bytes Choice(uint32_t layers, char precision, char basis, char cut) {
  return {static_cast<char>(layers << 2), precision, basis, cut};
}

void WriteBlocks() {
  for (const Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder}) {
    const std::string name(CodecName(codec));
    const BlockShape small = {1, 1, 16, 64, Dtype::kBf16}, odd = {1, 1, 16, 80, Dtype::kF16};
    const BlockShape two = {2, 1, 16, 64, Dtype::kF16};
    Write("block_fuzz", name, Choice(1, 0, 0, 0) + EncodedBlock(small, codec, 16, 0, false));
    Write("block_fuzz", name + "-odd", Choice(1, 0, 1, 0) + EncodedBlock(odd, codec, 0, 0, false));
    Write("block_fuzz", name + "-two-layers", Choice(2, 0, 0, 100) + EncodedBlock(two, codec, 0, 0, false));
    Write("block_fuzz", name + "-raised", Choice(1, 0, 0, 1) + EncodedBlock(small, codec, 0, 60, false));
    Write("block_fuzz", name + "-infinite", Choice(1, 0, 0, 0) + EncodedBlock(small, codec, 16, 0, true));
  }
  const Bytes ladder = EncodedBlock({1, 1, 16, 64, Dtype::kBf16}, Codec::kLadder, 16, 0, false);
  for (const char precision : {1, 2, 3}) {
    Write("block_fuzz", "ladder-precision-" + std::to_string(precision), Choice(1, precision, 1, 60) + ladder);
  }
  Bytes damaged = ladder;
  damaged[kHeaderBytes] ^= 1;
  Write("block_fuzz", "damaged-table", Choice(1, 0, 0, 0) + damaged);
  damaged = ladder;
  damaged[damaged.size() - 1] ^= 1;
  Write("block_fuzz", "damaged-plane", Choice(1, 0, 0, 0) + damaged);
  damaged = ladder;
  damaged[kHeaderBytes + 4 * kPlaneEntryBytes] = 7;  // the first tile's mode
  Write("block_fuzz", "unknown-mode", Choice(1, 0, 0, 0) + damaged);
  Write("block_fuzz", "cut-in-table", Choice(1, 0, 0, 0) + ladder.substr(0, kHeaderBytes + 20));
}

}  // namespace
}  // namespace kvist

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  kvist::folder = argv[1];
  kvist::WriteBlocks();
  return 0;
}
