// libnccl as we use it: found at run time, its entry points by name. No header and no library of NCCL's at build time.
//
// Absence is normal: Load answers NotFound, and blocks go over gRPC.
// Threads  every entry point from any thread, but those on one communicator from one thread at a time. CommAbort is the
//          exception: it may be called while another thread is inside a call, and makes that call return.
// Waiting  every entry point may hang, whatever its documentation says: communicator.h keeps each off other threads.
// Errors   NotFound            no such library here.
//          FailedPrecondition  a library without one of the entry points (named), or older than kOldestNcclVersion.
// Why so few declarations: they are the part of the ABI that has not changed since 2.18. Config says which release it is
// of, and later libraries fill what it does not have. Library and process need not agree on anything else.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_NCCL_LIBRARY_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_NCCL_LIBRARY_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/transport/nccl/nccl_abi.h"

namespace kvist {
inline constexpr int kOldestNcclVersion = 21800;  // 2.18.0, as ncclGetVersion counts

// Stays loaded for the life of the process: a thread may still be inside a call that hangs.
struct NcclLibrary {
  int (*get_version)(int* version);
  int (*get_unique_id)(nccl::UniqueId* id);
  int (*comm_init_rank_config)(nccl::Comm** comm, int ranks, nccl::UniqueId id, int rank, nccl::Config* config);
  int (*comm_get_async_error)(nccl::Comm* comm, int* result);
  int (*comm_finalize)(nccl::Comm* comm);
  int (*comm_destroy)(nccl::Comm* comm);
  int (*comm_abort)(nccl::Comm* comm);
  int (*send)(const void* from, size_t count, int type, int peer, nccl::Comm* comm, void* stream);
  int (*recv)(void* to, size_t count, int type, int peer, nccl::Comm* comm, void* stream);
  int (*broadcast)(const void* from, void* to, size_t count, int type, int root, nccl::Comm* comm, void* stream);
  int (*group_start)();
  int (*group_end)();
  const char* (*get_error_string)(int result);
  const char* (*get_last_error)(nccl::Comm* comm);

  int version = 0;   // 22809 is 2.28.9
  std::string path;  // as it was given

  // `path` as for dlopen: a file, or a name that the loader looks for ("libnccl.so.2").
  static absl::StatusOr<std::shared_ptr<const NcclLibrary>> Load(const std::string& path);
};

// "2.28.9".
std::string NcclVersionName(int version);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_NCCL_LIBRARY_H_
