// Keys and bytes that any process can make from a number, to know a block again.
#ifndef KVIST_TESTS_GPU_NUMBERED_H_
#define KVIST_TESTS_GPU_NUMBERED_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "cachestore/key.h"

namespace kvist::testing {

inline Key NumberedKey(uint32_t number) {
  Key key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

inline std::vector<uint8_t> NumberedBytes(uint32_t number, size_t size_bytes) {
  std::vector<uint8_t> bytes(size_bytes);
  uint32_t state = number;
  for (uint8_t& byte : bytes) byte = uint8_t((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

}  // namespace kvist::testing

#endif  // KVIST_TESTS_GPU_NUMBERED_H_
