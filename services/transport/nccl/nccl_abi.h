// The part of NCCL's ABI that we use, in our own words. The same numbers and layouts have held since 2.18.
//
// Why our own: a build needs no header of NCCL's, and what runs is whichever library the engine has loaded.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_NCCL_ABI_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_NCCL_ABI_H_

#include <climits>
#include <cstddef>

namespace kvist {
namespace nccl {

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

inline constexpr size_t kUniqueIdBytes = 128;
struct UniqueId {
  char bytes[kUniqueIdBytes];
};

struct Comm;  // NCCL's own

// ncclConfig_t as of 2.18.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21800;
  int blocking = INT_MIN;  // INT_MIN, null: the library chooses
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};

inline constexpr int kUint8 = 1;  // ncclUint8

}  // namespace nccl
}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_NCCL_ABI_H_
