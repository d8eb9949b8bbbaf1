// One end of a transfer as a process that a test starts and kills.
//   node BLOCKS BYTES_PER_MS       serves until killed; prints "address HOST:PORT"
//   worker ADDRESS FIRST COUNT     opens an epoch ("open"), fetches, checks the bytes, prints "nccl N grpc N missing N"
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/services/transport/nccl/transfer_node.h"
#include "tests/services/transport/nccl/transfer_worker.h"

namespace kvist::testing {
namespace {

int RunNode(uint32_t blocks, int64_t bytes_per_ms) {
  TransferNode node(blocks);
  node.end.shim.Set("bytes_per_ms", bytes_per_ms);
  std::printf("address %s\n", node.address().c_str());
  std::fflush(stdout);
  while (true) pause();
}

int RunWorker(const std::string& address, uint32_t first, uint32_t count) {
  TransferWorker worker(address);
  if (!worker.Open()) return 2;
  std::printf("open\n");
  std::fflush(stdout);
  const Fetched fetched = worker.Get(first, count);
  for (uint32_t i = 0; i < count; ++i) {
    if (fetched.blocks[i].extent.size_bytes == 0) continue;
    if (worker.Read(fetched.blocks[i]) != BlockBytes(first + i)) return 3;
  }
  const DeviceFetch::Counts counts = worker.fetch->counts();
  std::printf("nccl %d grpc %d missing %d\n", int(counts.over_nccl), int(counts.over_grpc), int(counts.misses));
  return 0;
}

}  // namespace
}  // namespace kvist::testing

int main(int argc, char** argv) {
  using namespace kvist::testing;  // NOLINT
  const std::string role = argc > 1 ? argv[1] : "";
  if (role == "node" && argc == 4) return RunNode(uint32_t(std::atoi(argv[2])), std::atoll(argv[3]));
  if (role == "worker" && argc == 5) {
    return RunWorker(argv[2], uint32_t(std::atoi(argv[3])), uint32_t(std::atoi(argv[4])));
  }
  std::fprintf(stderr, "transfer_process: see the head of transfer_process.cc\n");
  return 1;
}
