// XXH3-64 (xxHash 0.8, seed 0, default secret) cut for a device: the additions of every kibibyte are independent of
// each other and are summed in parallel (KibSums); what chains is one scramble a kibibyte on eight lanes.
//
// Units   bytes.
// Threads pure functions.
// Accuracy equal to xxhash's XXH3_64bits for every length; tests/kernels/cuda/checksum_test.cc.
#ifndef KVIST_KERNELS_CUDA_XXH3_H_
#define KVIST_KERNELS_CUDA_XXH3_H_

#include "kernels/cuda/device.h"
#include "kernels/cuda/tasks.h"

namespace kvist::cuda::xxh3 {

inline constexpr uint32_t kSecretBytes = 192, kStripe = 64, kKib = 1024, kStripesOfKib = 16, kShort = 240;
inline constexpr uint64_t kPrime32_1 = 0x9E3779B1u, kPrime32_2 = 0x85EBCA77u, kPrime32_3 = 0xC2B2AE3Du;
inline constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87u, kPrime64_2 = 0xC2B2AE3D27D4EB4Fu,
                          kPrime64_3 = 0x165667B19E3779F9u, kPrime64_4 = 0x85EBCA77C2B2AE63u,
                          kPrime64_5 = 0x27D4EB2F165667C5u, kPrimeMx1 = 0x165667919E3779F9u,
                          kPrimeMx2 = 0x9FB21C651E98DF25u;

// The default secret; a kernel copies it to shared memory, where all lanes may index it.
struct Secret {
  alignas(16) uint8_t byte[kSecretBytes];
};
KVIST_TABLE uint64_t kSecretWords[kSecretBytes / 8] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072, 0x78e5c0cc4ee679cb,
    0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0, 0xcb00c391bb52283c, 0xa32e531b8b65d088,
    0x4ef90da297486471, 0xd8acdea946ef1938, 0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a,
    0x647378d9c97e9fc8, 0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af};
KVIST_HD void CopySecret(uint32_t thread, uint32_t threads, Secret& secret) {
  for (uint32_t i = thread; i < kSecretBytes / 8; i += threads) Store(uint64_t{kSecretWords[i]}, secret.byte + 8 * i);
}

KVIST_HD uint32_t Read32(const uint8_t* at) {
  return at[0] | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24;
}
KVIST_HD uint64_t Read64(const uint8_t* at) { return Read32(at) | uint64_t{Read32(at + 4)} << 32; }

KVIST_HD uint64_t MultiplyFold(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return (a * b) ^ __umul64hi(a, b);
#else
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return uint64_t(product) ^ uint64_t(product >> 64);
#endif
}

KVIST_HD uint64_t Swap64(uint64_t value) {
  uint64_t result = 0;
  for (int i = 0; i < 8; ++i) result = result << 8 | (value >> (8 * i) & 0xff);
  return result;
}

KVIST_HD uint64_t Rotate(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

KVIST_HD uint64_t Avalanche(uint64_t hash) {
  hash = (hash ^ hash >> 37) * kPrimeMx1;
  return hash ^ hash >> 32;
}

KVIST_HD uint64_t Avalanche64(uint64_t hash) {  // XXH64's
  hash = (hash ^ hash >> 33) * kPrime64_2;
  hash = (hash ^ hash >> 29) * kPrime64_3;
  return hash ^ hash >> 32;
}

KVIST_HD uint64_t Mix16(const uint8_t* at, const uint8_t* secret) {
  return MultiplyFold(Read64(at) ^ Read64(secret), Read64(at + 8) ^ Read64(secret + 8));
}

KVIST_HD uint64_t HashTo16(const uint8_t* at, uint64_t length, const uint8_t* secret) {
  if (length > 8) {
    const uint64_t low = Read64(at) ^ (Read64(secret + 24) ^ Read64(secret + 32));
    const uint64_t high = Read64(at + length - 8) ^ (Read64(secret + 40) ^ Read64(secret + 48));
    return Avalanche(length + Swap64(low) + high + MultiplyFold(low, high));
  }
  if (length >= 4) {
    const uint64_t joined = Read32(at + length - 4) + (uint64_t{Read32(at)} << 32);
    uint64_t hash = joined ^ (Read64(secret + 8) ^ Read64(secret + 16));
    hash ^= Rotate(hash, 49) ^ Rotate(hash, 24);
    hash *= kPrimeMx2;
    hash ^= (hash >> 35) + length;
    hash *= kPrimeMx2;
    return hash ^ hash >> 28;
  }
  if (length == 0) return Avalanche64(Read64(secret + 56) ^ Read64(secret + 64));
  const uint32_t joined =
      uint32_t{at[0]} << 16 | uint32_t{at[length >> 1]} << 24 | at[length - 1] | uint32_t(length) << 8;
  return Avalanche64(joined ^ uint64_t{Read32(secret) ^ Read32(secret + 4)});
}

KVIST_HD uint64_t HashTo128(const uint8_t* at, uint64_t length, const uint8_t* secret) {
  uint64_t hash = length * kPrime64_1;
  for (int i = int(length - 1) / 32; i >= 0; --i) {
    hash += Mix16(at + 16 * i, secret + 32 * i);
    hash += Mix16(at + length - 16 * (i + 1), secret + 32 * i + 16);
  }
  return Avalanche(hash);
}

KVIST_HD uint64_t HashTo240(const uint8_t* at, uint64_t length, const uint8_t* secret) {
  uint64_t hash = length * kPrime64_1;
  for (int i = 0; i < 8; ++i) hash += Mix16(at + 16 * i, secret + 16 * i);
  hash = Avalanche(hash);
  for (int i = 8; i < int(length) / 16; ++i) hash += Mix16(at + 16 * i, secret + 16 * (i - 8) + 3);
  hash += Mix16(at + length - 16, secret + 136 - 17);
  return Avalanche(hash);
}

// REQUIRES: length at most kShort.
KVIST_HD uint64_t HashShort(const uint8_t* at, uint64_t length, const uint8_t* secret) {
  if (length <= 16) return HashTo16(at, length, secret);
  return length <= 128 ? HashTo128(at, length, secret) : HashTo240(at, length, secret);
}

// What a stripe adds to a lane, from the lane's word, its neighbour's (lane ^ 1) and its word of the secret.
KVIST_HD uint64_t LaneAddend(uint64_t word, uint64_t neighbour, uint64_t secret) {
  const uint64_t keyed = word ^ secret;
  return neighbour + uint64_t{uint32_t(keyed)} * (keyed >> 32);
}

KVIST_HD uint64_t LaneStart(uint32_t lane) {
  constexpr uint64_t kStart[8] = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                                  kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
  return kStart[lane];
}

// Whole kibibytes whose sums are scrambled in; the last byte is always outside. 0 for short pieces.
KVIST_HD uint64_t ChainedKibs(uint64_t length) { return length <= kShort ? 0 : (length - 1) / kKib; }

KVIST_HD uint64_t Scramble(uint64_t lane, uint64_t secret) { return (lane ^ lane >> 47 ^ secret) * kPrime32_1; }

// One lane at the end of a long piece: its chain over `sums`, then the stripes after the last whole kibibyte.
KVIST_HD uint64_t FinalLane(const uint8_t* at, uint64_t length, const KibSums* sums, uint32_t lane,
                            const uint8_t* secret) {
  uint64_t value = LaneStart(lane);
  const uint64_t kibs = ChainedKibs(length);
  const uint64_t scramble = Load<uint64_t>(secret + kSecretBytes - kStripe + 8 * lane);
  KVIST_UNROLL_4
  for (uint64_t kib = 0; kib < kibs; ++kib) value = Scramble(value + sums[kib].lane[lane], scramble);
  const uint64_t stripes = (length - 1 - kibs * kKib) / kStripe;
  for (uint64_t stripe = 0; stripe < stripes; ++stripe) {
    const uint8_t* from = at + kibs * kKib + stripe * kStripe;
    value += LaneAddend(Load<uint64_t>(from + 8 * lane), Load<uint64_t>(from + 8 * (lane ^ 1)),
                        Load<uint64_t>(secret + 8 * stripe + 8 * lane));
  }
  const uint8_t* last = at + length - kStripe;  // may start anywhere
  return value + LaneAddend(Read64(last + 8 * lane), Read64(last + 8 * (lane ^ 1)),
                            Read64(secret + kSecretBytes - kStripe - 7 + 8 * lane));
}

KVIST_HD uint64_t Merge(const uint64_t* lanes, uint64_t length, const uint8_t* secret) {
  uint64_t hash = length * kPrime64_1;
  for (int i = 0; i < 4; ++i) {
    hash += MultiplyFold(lanes[2 * i] ^ Read64(secret + 11 + 16 * i), lanes[2 * i + 1] ^ Read64(secret + 19 + 16 * i));
  }
  return Avalanche(hash);
}

}  // namespace kvist::cuda::xxh3

#endif  // KVIST_KERNELS_CUDA_XXH3_H_
