#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "tests/gpu/nccl_roles.h"

namespace kvist::testing {
namespace {

constexpr int kSharesAGpuByItself = 23003;  // NCCL_MULTI_RANK_GPU_ENABLE came with 2.30.3

// What an operator has set stands.
void Set(const char* name, const std::string& value) { setenv(name, value.c_str(), /*overwrite=*/0); }

// NCCL refuses two ranks of one host on one GPU. Since 2.30.3 it can be told otherwise; before, a host id for each rank
// makes them look like two hosts, which talk over sockets. Its environment is read when the first communicator opens.
void LetTwoRanksShareAGpu(int version, int rank) {
  if (version >= kSharesAGpuByItself) {
    Set("NCCL_MULTI_RANK_GPU_ENABLE", "1");
    Set("NCCL_NVLS_ENABLE", "0");
    return;
  }
  Set("NCCL_HOSTID", absl::StrCat("kvist-rank-", rank));
  Set("NCCL_NET", "Socket");
  Set("NCCL_SOCKET_IFNAME", "lo");
  Set("NCCL_IB_DISABLE", "1");
  Set("NCCL_MNNVL_ENABLE", "0");
  Set("NCCL_NET_GDR_LEVEL", "LOC");
}

}  // namespace

absl::StatusOr<NcclRank> OpenRank(const NcclSetup& setup, int rank) {
  NcclRank opened;
  absl::StatusOr<std::shared_ptr<Device>> first = OpenDevice(setup.kind), second = OpenDevice(setup.kind, 1);
  if (!first.ok()) return absl::NotFoundError(first.status().message());
  opened.one_gpu = setup.one_gpu || !second.ok();
  opened.device = rank == 1 && !opened.one_gpu ? *second : *first;
  if (opened.device->description().mig) return absl::FailedPreconditionError("a slice of a GPU (MIG) has no NCCL");
  absl::StatusOr<std::shared_ptr<const NcclLibrary>> library = NcclLibrary::Load(setup.library);
  if (!library.ok()) return library.status();
  opened.library = *library;
  if (opened.one_gpu) LetTwoRanksShareAGpu(opened.library->version, rank);
  NcclLimits limits;
  limits.open_limit = absl::Seconds(30);  // the first init of a process looks at the whole machine
  opened.communicators = std::make_unique<Communicators>(opened.library, opened.device.get(), limits);
  return opened;
}

}  // namespace kvist::testing
