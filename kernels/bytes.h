// Little-endian numbers in blocks, wherever they lie. The supported CPUs are little-endian; memcpy is free there.
#ifndef KVIST_KERNELS_BYTES_H_
#define KVIST_KERNELS_BYTES_H_

#include <bit>
#include <cstdint>
#include <cstring>

namespace kvist {

static_assert(std::endian::native == std::endian::little, "blocks are little-endian; this CPU needs byte swaps here");

template <typename T>
T LoadLe(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T>
void StoreLe(T value, uint8_t* to) {
  std::memcpy(to, &value, sizeof(T));
}

}  // namespace kvist

#endif  // KVIST_KERNELS_BYTES_H_
