// Bytes that a kernel reads and writes where they are, and the test too: aligned as device allocations are, and of the
// emulated grid not one more than asked for.
//
// KVIST_ON_DEVICE: managed memory, which moves to the device while kernels run and back when the host looks. So a test is
// the same lines for both.
#ifndef KVIST_TESTS_KERNELS_CUDA_DEVICE_BYTES_H_
#define KVIST_TESTS_KERNELS_CUDA_DEVICE_BYTES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "absl/types/span.h"

#if KVIST_ON_DEVICE
#include <cuda_runtime_api.h>
#endif

namespace kvist::cuda {

class DeviceBytes {
 public:
  explicit DeviceBytes(size_t size) : size_(size), bytes_(Take(size)) { std::memset(bytes_.get(), 0, size); }
  explicit DeviceBytes(absl::Span<const uint8_t> bytes) : DeviceBytes(bytes.size()) {
    std::copy(bytes.begin(), bytes.end(), bytes_.get());
  }
  uint8_t* data() { return bytes_.get(); }
  const uint8_t* data() const { return bytes_.get(); }
  size_t size() const { return size_; }

 private:
#if KVIST_ON_DEVICE
  static uint8_t* Take(size_t size) {
    void* bytes = nullptr;
    if (cudaMallocManaged(&bytes, std::max<size_t>(size, 1)) != cudaSuccess) throw std::bad_alloc();
    return static_cast<uint8_t*>(bytes);
  }
  struct Release {
    void operator()(uint8_t* bytes) const { cudaFree(bytes); }
  };
#else
  static uint8_t* Take(size_t size) { return new (std::align_val_t{256}) uint8_t[size]; }
  struct Release {
    void operator()(uint8_t* bytes) const { ::operator delete[](bytes, std::align_val_t{256}); }
  };
#endif
  size_t size_;
  std::unique_ptr<uint8_t[], Release> bytes_;
};

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_DEVICE_BYTES_H_
