// Goal    What only a GPU can show of the kernels: encode, decode and checksums as a share of the memory's bandwidth; and
//         copies to and from the host.
// Method  kernel_rows.h says what a row works on. CUDA events around each of 20 launches after 3 for warming up, median. Peak
//         is 2 * memory clock * bus width, as the runtime reports them. Rows with a reach are judged. A table on stdout,
//         JSON at --json FILE. --probe: only whether there is a GPU.
// Exit    0: all reached; 1: a kernel failed, or its result is wrong; 2: a reach was missed; 3: no GPU.
#include <cuda_runtime.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cachestore/cuda_device.h"
#include "tests/gpu/bench_device.h"
#include "tests/gpu/kernel_rows.h"

namespace kvist::cuda {
namespace {

constexpr uint64_t kCopyBytes = uint64_t{256} << 20;

class Bench {
 public:
  Bench() {
    Require(cudaGetDeviceProperties(&properties_, 0), "device");
    int clock_khz = 0, bus_bits = 0;
    Require(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, 0), "memory clock");
    Require(cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, 0), "bus width");
    peak_ = 2.0 * clock_khz * 1e3 * bus_bits / 8;
    if (peak_ > 0) return;
    std::fprintf(stderr, "gpu_bench: the driver does not say how fast this GPU's memory is: nothing can be judged\n");
    std::exit(1);
  }

  void Add(Row row) { rows_.push_back(std::move(row)); }
  double peak() const { return peak_; }

  void Copies() {
    DeviceBuffer device(kCopyBytes);
    void* host = nullptr;
    Require(cudaMallocHost(&host, kCopyBytes), "pinned memory");
    const auto copy = [&](const char* what, void* to, const void* from, cudaMemcpyKind kind) {
      const double seconds = MedianSeconds(
          [&](cudaStream_t stream) { Require(cudaMemcpyAsync(to, from, kCopyBytes, kind, stream), what); });
      rows_.push_back({what, kCopyBytes / seconds / 1e9, 0, 0});
    };
    copy("host to device, pinned, 256 MiB", device.at(), host, cudaMemcpyHostToDevice);
    copy("device to host, pinned, 256 MiB", host, device.at(), cudaMemcpyDeviceToHost);
    cudaFreeHost(host);
    DeviceBuffer other(kCopyBytes);
    const double seconds = MedianSeconds([&](cudaStream_t stream) {
      Require(cudaMemcpyAsync(other.at(), device.at(), kCopyBytes, cudaMemcpyDeviceToDevice, stream), "copy");
    });
    rows_.push_back(
        {"device to device, read and written", 2 * kCopyBytes / seconds / 1e9, 2 * kCopyBytes / seconds / peak_, 0});
  }

  int Report(const char* json_path) const {
    int driver = 0;
    Require(cudaDriverGetVersion(&driver), "driver");
    std::printf("%s, driver %d, peak %.0f GB/s\n| what | GB/s | of peak | reach |\n|---|---|---|---|\n",
                properties_.name, driver, peak_ / 1e9);
    nlohmann::json report = {{"gpu", properties_.name}, {"driver", driver}, {"peak_gb_per_s", peak_ / 1e9}};
    bool missed = false;
    for (const Row& row : rows_) {
      const bool falls_short = row.share < row.reach;
      missed = missed || falls_short;
      std::printf("| %s | %.0f | %.2f | %s%s |\n", row.what.c_str(), row.gb_per_s, row.share,
                  row.reach > 0 ? absl::StrCat(row.reach).c_str() : "", falls_short ? ", MISSED" : "");
      report["rows"].push_back(
          {{"what", row.what}, {"gb_per_s", row.gb_per_s}, {"share_of_peak", row.share}, {"reach", row.reach}});
    }
    if (json_path != nullptr) std::ofstream(json_path) << report.dump(1) << "\n";
    return missed ? 2 : 0;
  }

 private:
  cudaDeviceProp properties_;
  double peak_ = 0;
  std::vector<Row> rows_;
};

int Main(int argc, char** argv) {
  const absl::StatusOr<std::unique_ptr<Device>> device = OpenCudaDevice(0);
  if (!device.ok()) {
    std::fprintf(stderr, "no GPU: %s\n", std::string(device.status().message()).c_str());
    return 3;
  }
  if (argc == 2 && std::string(argv[1]) == "--probe") return 0;
  Bench bench;
  for (const uint32_t head_dim : {64u, 128u, 256u}) {
    for (const uint32_t layers : {1u, 32u}) {
      for (const KernelCase& what : {KernelCase{Codec::kRaw16, head_dim, layers},
                                     {Codec::kI8, head_dim, layers, Basis::kOriginal, 0.85},
                                     {Codec::kLadder, head_dim, layers, Basis::kKeptRotated, 0.85},
                                     {Codec::kLadder, head_dim, layers, Basis::kOriginal, 0.70}}) {
        bench.Add(DecodeRow(what, bench.peak()));
      }
      for (const Codec codec : {Codec::kI8, Codec::kLadder}) {
        bench.Add(EncodeRow({codec, head_dim, layers}, bench.peak()));
      }
    }
  }
  for (const Codec codec : {Codec::kI8, Codec::kLadder}) bench.Add(CheckRow({codec, 128, 32}, bench.peak()));
  bench.Copies();
  return bench.Report(argc == 3 && std::string(argv[1]) == "--json" ? argv[2] : nullptr);
}

}  // namespace
}  // namespace kvist::cuda

int main(int argc, char** argv) { return kvist::cuda::Main(argc, argv); }
