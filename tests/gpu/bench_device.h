// What the rows of gpu_bench share: device memory, the time that work takes on a stream, and the peak that it is a share of.
//
// Units   bytes, seconds; GB/s are 1e9 bytes a second.
// Errors  none come back: a call of the runtime that fails ends the program with its words and status 1.
#ifndef KVIST_TESTS_GPU_BENCH_DEVICE_H_
#define KVIST_TESTS_GPU_BENCH_DEVICE_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace kvist::cuda {

inline void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename Status>
void RequireOk(const Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "gpu_bench: %s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t size_bytes) { Require(cudaMalloc(&at_, size_bytes), "device memory"); }
  explicit DeviceBuffer(absl::Span<const uint8_t> bytes) : DeviceBuffer(bytes.size()) { Fill(0, bytes); }
  ~DeviceBuffer() { cudaFree(at_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  uint8_t* at() const { return static_cast<uint8_t*>(at_); }
  void Fill(size_t offset, absl::Span<const uint8_t> bytes) {
    Require(cudaMemcpy(at() + offset, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "copy to the device");
  }

 private:
  void* at_ = nullptr;
};

constexpr int kWarm = 3, kRounds = 20;

// Median seconds of what `enqueue` puts on a stream.
template <typename Enqueue>
double MedianSeconds(const Enqueue& enqueue) {
  cudaStream_t stream;
  cudaEvent_t from, to;
  Require(cudaStreamCreate(&stream), "stream");
  Require(cudaEventCreate(&from), "event");
  Require(cudaEventCreate(&to), "event");
  std::vector<double> seconds;
  for (int round = 0; round < kWarm + kRounds; ++round) {
    Require(cudaEventRecord(from, stream), "event");
    enqueue(stream);
    Require(cudaEventRecord(to, stream), "event");
    Require(cudaEventSynchronize(to), "run");
    float milliseconds = 0;
    Require(cudaEventElapsedTime(&milliseconds, from, to), "time");
    if (round >= kWarm) seconds.push_back(milliseconds / 1e3);
  }
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  cudaStreamDestroy(stream);
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return seconds[kRounds / 2];
}

// One line of the table.
struct Row {
  std::string what;
  double gb_per_s = 0, share = 0, reach = 0;  // share of peak, 0 of a copy over a bus; a reach of 0: nothing is asked
};

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_GPU_BENCH_DEVICE_H_
