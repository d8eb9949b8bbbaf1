// What host and device do differently, and nothing else: so that every other line of a kernel is the same text for nvcc
// and for the grid emulator of tests/kernels/cuda.
//
// Units   addresses in bytes.
// Threads Raise is safe from any thread of a grid; the others are pure or touch only what they are given.
// Why     A kernel that only a GPU can run is tested only where one is. These few lines are what a CPU test cannot
//         reach, with the narrowing instructions of arithmetic.h and the high product of xxh3.h.
#ifndef KVIST_KERNELS_CUDA_DEVICE_H_
#define KVIST_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KVIST_HD __host__ __device__ __forceinline__
#else
#define KVIST_HD inline
#endif

// A table that device functions index: in the device's constant memory. nvcc warns that the host half of such a
// function cannot read it; nobody calls that half.
#if defined(__CUDACC__)
#pragma nv_diag_suppress 20091
#define KVIST_TABLE static __constant__ const
#else
#define KVIST_TABLE inline constexpr
#endif

#if defined(__CUDA_ARCH__)
#define KVIST_UNROLL _Pragma("unroll")
#define KVIST_UNROLL_4 _Pragma("unroll 4")
#else
#define KVIST_UNROLL
#define KVIST_UNROLL_4
#endif

namespace kvist::cuda {

// One access of up to 16 bytes.
template <int kWords>
struct alignas(4 * kWords) Words {
  uint32_t word[kWords];
};

// REQUIRES: `at` is aligned to alignof(T).
template <typename T>
KVIST_HD T Load(const void* at) {
#if defined(__CUDA_ARCH__)
  return *static_cast<const T*>(at);
#else
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
#endif
}

template <typename T>
KVIST_HD void Store(const T& value, void* at) {
#if defined(__CUDA_ARCH__)
  *static_cast<T*>(at) = value;
#else
  std::memcpy(at, &value, sizeof(T));
#endif
}

// The same for block bytes and pages, whose addresses come from tables: the compiler cannot know that they are global
// memory, and a generic access costs a check of the address. REQUIRES: nobody writes what is loaded during the kernel.
template <typename T>
KVIST_HD T LoadGlobal(const void* at) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 16) {
    const uint4 loaded = __ldg(static_cast<const uint4*>(at));
    return {loaded.x, loaded.y, loaded.z, loaded.w};
  } else if constexpr (sizeof(T) == 8) {
    const uint2 loaded = __ldg(static_cast<const uint2*>(at));
    return {loaded.x, loaded.y};
  } else if constexpr (sizeof(T) == 4) {
    return {__ldg(static_cast<const unsigned int*>(at))};
  } else {
    return __ldg(static_cast<const T*>(at));
  }
#else
  return Load<T>(at);
#endif
}

KVIST_HD void StoreGlobal(const Words<4>& value, void* at) {
#if defined(__CUDA_ARCH__)
  __stwb(static_cast<uint4*>(at), make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]));
#else
  Store(value, at);
#endif
}

// Four bytes of the eight in (high, low), chosen by the four low nibbles of `selector` (0 to 7).
KVIST_HD uint32_t BytePermute(uint32_t low, uint32_t high, uint32_t selector) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(low, high, selector);
#else
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= uint32_t(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return result;
#endif
}

// Keeps the first code that anyone raises in `word`, which starts as zero.
KVIST_HD void Raise(uint32_t* word, uint32_t code) {
#if defined(__CUDA_ARCH__)
  atomicCAS(word, 0u, code);
#else
  if (*word == 0) *word = code;
#endif
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_DEVICE_H_
