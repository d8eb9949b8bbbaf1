// How a test makes the shim misbehave: it looks up `kvist_shim_set` in the library that it loaded. Copies of the file,
// loaded under other names, misbehave independently.
//
// Faults, each set to a number; 0 ends it, and wakes those who hang for it:
//   version         what ncclGetVersion says; 0 = kShimVersion
//   hang_init       1 = ncclCommInitRankConfig begins an init that never completes; 2 = it does not return itself
//   hang_group_end  1 = ncclGroupEnd does not return before the communicator is aborted; 2 = not even then
//   hang_abort      1 = ncclCommAbort does not return
//   hang_id         1 = ncclGetUniqueId does not return
//   async_error     the result that ncclCommGetAsyncError says of communicators that are up
//   bytes_per_ms    how fast a transfer goes; 0 = as fast as it can
//   duplicate_gpu   1 = init fails as NCCL's does for two ranks on one GPU
#ifndef KVIST_TESTS_NCCL_SHIM_SHIM_CONTROL_H_
#define KVIST_TESTS_NCCL_SHIM_SHIM_CONTROL_H_

#include <cstdint>

namespace kvist::testing {

inline constexpr int kShimVersion = 22809;
using ShimSet = void(const char* fault, int64_t value);
using ShimCount = int64_t();  // kvist_shim_communicators: those that live

}  // namespace kvist::testing

#endif  // KVIST_TESTS_NCCL_SHIM_SHIM_CONTROL_H_
