// The two ranks of nccl_check, each in a process of its own, and what they and the parent say to each other:
//   node    -> parent  "address HOST:PORT"; then an answer to every order
//   worker  -> parent  "raw CTAS"  the node makes an id and opens a raw communicator -> "id HEX"
//                      "move N"    the node sends all blocks N times over it          -> "moving"
//                      "done JSON" the verdict: the blocks were right, and the rates
// Units   bytes; GB/s are 1e9 bytes a second.
#ifndef KVIST_TESTS_GPU_NCCL_ROLES_H_
#define KVIST_TESTS_GPU_NCCL_ROLES_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cachestore/device.h"
#include "services/transport/nccl/communicators.h"
#include "tests/device/device_kinds.h"
#include "tests/gpu/role_process.h"

namespace kvist::testing {

struct NcclSetup {
  std::string kind;
  std::string library = "libnccl.so.2";
  bool one_gpu = false;  // also where there are two

  bool emulated() const { return kind == kEmulated; }
  uint32_t blocks() const { return emulated() ? 16 : 64; }
  uint64_t size_of(uint32_t number) const { return (emulated() ? 64 << 10 : 2 << 20) + 4 * uint64_t{number}; }
  int rounds() const { return emulated() ? 4 : 24; }  // of a measurement, at most
};

// A rank's device, library and communicators.
struct NcclRank {
  bool one_gpu = false;
  std::shared_ptr<Device> device;
  std::shared_ptr<const NcclLibrary> library;
  std::unique_ptr<Communicators> communicators;
};

// Errors: NotFound            no libnccl, or no device.
//         FailedPrecondition  a libnccl that is none for us, or a slice of a GPU (MIG).
absl::StatusOr<NcclRank> OpenRank(const NcclSetup& setup, int rank);

// Exit statuses are those of verdict.h.
int RunNcclNode(const NcclSetup& setup, Line& line);
int RunNcclWorker(const NcclSetup& setup, const std::string& address, Line& line);

}  // namespace kvist::testing

#endif  // KVIST_TESTS_GPU_NCCL_ROLES_H_
