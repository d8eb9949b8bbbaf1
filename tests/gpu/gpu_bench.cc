// Goal    What only a GPU can show: decode as a share of the memory's bandwidth, and copies to and from the host.
// Method  Blocks that fill 1 GiB of pages, all in one launch of a plan (checksums, resolve, decode), every block with pages
//         of its own; CUDA events around each of 20 launches after 3 for warming up, median. Bytes of a decode are those
//         read (the block's) and written (the pages). Peak is 2 * memory clock * bus width, as the runtime reports them.
//         Rows with a reach are judged. A table on stdout, JSON at --json FILE.
// Exit    0: all reached; 1: a decode failed or gave a status; 2: a reach was missed; 3: no GPU.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/decode.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/random_block.h"

namespace kvist::cuda {
namespace {

constexpr uint64_t kPageBytes = uint64_t{1} << 30;
constexpr uint64_t kCopyBytes = uint64_t{256} << 20;
constexpr int kWarm = 3, kRounds = 20;
constexpr uint32_t kPageTokens = 16;

void Require(cudaError_t error, const char* what) {
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
  ~DeviceBuffer() { cudaFree(at_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  uint8_t* at() const { return static_cast<uint8_t*>(at_); }

 private:
  void* at_ = nullptr;
};

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

struct Row {
  std::string what;
  double gb_per_s = 0, share = 0, reach = 0;  // share of peak; a reach of 0: nothing is asked
};

class Bench {
 public:
  Bench() {
    Require(cudaGetDeviceProperties(&properties_, 0), "device");
    int clock_khz = 0, bus_bits = 0;
    Require(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, 0), "memory clock");
    Require(cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, 0), "bus width");
    peak_ = 2.0 * clock_khz * 1e3 * bus_bits / 8;
  }

  void Decode(Codec codec, uint32_t head_dim, uint32_t layers, Basis basis, double reach) {
    const BlockShape shape = {layers, 8, 128, head_dim, Dtype::kBf16};
    const uint32_t blocks = static_cast<uint32_t>(kPageBytes / shape.PlainBytes());
    std::mt19937_64 random(1);
    const std::vector<uint8_t> block = RandomBlock(shape, codec, 128, {0}, random);
    const size_t stride = (block.size() + 63) / 64 * 64;
    DeviceBuffer stored(stride * blocks);
    for (uint32_t i = 0; i < blocks; ++i) {
      Require(cudaMemcpy(stored.at() + i * stride, block.data(), block.size(), cudaMemcpyHostToDevice), "block");
    }
    const uint32_t pages_each = shape.tokens / kPageTokens;
    const PageLayout layout = {
        PageOrder::kPackedNhd, blocks * pages_each, kPageTokens, shape.heads, head_dim, shape.dtype};
    DeviceBuffer pages(kPageBytes);
    std::vector<uint16_t*> tensors;
    for (uint32_t layer = 0; layer < layers; ++layer) {
      tensors.push_back(reinterpret_cast<uint16_t*>(pages.at() + layer * (kPageBytes / layers)));
    }
    std::vector<uint32_t> table(layout.pages);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), random);
    std::vector<DecodeRequest> requests(blocks);
    for (uint32_t i = 0; i < blocks; ++i) {
      requests[i].device_bytes = stored.at() + i * stride;
      requests[i].device_size_bytes = block.size();
      requests[i].prefix = absl::MakeConstSpan(block).first(BlockView::PrefixBytes(block).value());
      requests[i].layers = {0, layers};
      requests[i].basis = basis;
      requests[i].layer_pages = tensors;
      requests[i].block_table = absl::MakeConstSpan(table).subspan(i * pages_each, pages_each);
    }
    Run(layout, requests, block.size() * blocks,
        absl::StrCat("decode ", std::string(CodecName(codec)), basis == Basis::kKeptRotated ? " kept rotated" : "",
                     ", D = ", head_dim, ", ", layers, " layers, ", blocks * layers * 2 * shape.heads, " tiles"),
        reach);
  }

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
  void Run(const PageLayout& layout, const std::vector<DecodeRequest>& requests, uint64_t read_bytes,
           const std::string& what, double reach) {
    const auto plan = DecodePlan::Make(layout, requests);
    RequireOk(plan.status(), what.c_str());
    DeviceBuffer table(plan->table_bytes().size()), workspace(plan->workspace_bytes());
    Require(cudaMemcpy(table.at(), plan->table_bytes().data(), plan->table_bytes().size(), cudaMemcpyHostToDevice),
            "table");
    const double seconds = MedianSeconds(
        [&](cudaStream_t stream) { RequireOk(LaunchDecode(*plan, table.at(), workspace.at(), stream), what.c_str()); });
    std::vector<uint32_t> words(requests.size());
    Require(cudaMemcpy(words.data(), workspace.at(), words.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost), "words");
    for (const uint32_t word : words) RequireOk(StatusOfWord(word), what.c_str());
    const double rate = static_cast<double>(read_bytes + plan->written_bytes()) / seconds;
    rows_.push_back({what, rate / 1e9, rate / peak_, reach});
  }

  cudaDeviceProp properties_;
  double peak_ = 0;
  std::vector<Row> rows_;
};

int Main(int argc, char** argv) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    std::fprintf(stderr, "gpu_bench: no GPU: %s\n",
                 found == cudaSuccess ? "none is visible" : cudaGetErrorString(found));
    return 3;
  }
  if (argc == 2 && std::string(argv[1]) == "--probe") return 0;
  Bench bench;
  for (const uint32_t head_dim : {64u, 128u, 256u}) {
    for (const uint32_t layers : {1u, 32u}) {
      bench.Decode(Codec::kRaw16, head_dim, layers, Basis::kOriginal, 0);
      bench.Decode(Codec::kI8, head_dim, layers, Basis::kOriginal, 0.85);
      bench.Decode(Codec::kLadder, head_dim, layers, Basis::kKeptRotated, 0.85);
      bench.Decode(Codec::kLadder, head_dim, layers, Basis::kOriginal, 0.70);
    }
  }
  bench.Copies();
  return bench.Report(argc == 3 && std::string(argv[1]) == "--json" ? argv[2] : nullptr);
}

}  // namespace
}  // namespace kvist::cuda

int main(int argc, char** argv) { return kvist::cuda::Main(argc, argv); }
