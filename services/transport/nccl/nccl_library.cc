#include "services/transport/nccl/nccl_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

// Looks up what it is asked for and remembers the first name that was not there.
class Symbols {
 public:
  explicit Symbols(void* handle) : handle_(handle) {}
  template <typename Function>
  void Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (*function == nullptr && missing_ == nullptr) missing_ = name;
  }
  const char* missing() const { return missing_; }

 private:
  void* const handle_;
  const char* missing_ = nullptr;
};

const char* FindAll(void* handle, NcclLibrary* library) {
  Symbols symbols(handle);
  symbols.Find("ncclGetVersion", &library->get_version);
  symbols.Find("ncclGetUniqueId", &library->get_unique_id);
  symbols.Find("ncclCommInitRankConfig", &library->comm_init_rank_config);
  symbols.Find("ncclCommGetAsyncError", &library->comm_get_async_error);
  symbols.Find("ncclCommFinalize", &library->comm_finalize);
  symbols.Find("ncclCommDestroy", &library->comm_destroy);
  symbols.Find("ncclCommAbort", &library->comm_abort);
  symbols.Find("ncclSend", &library->send);
  symbols.Find("ncclRecv", &library->recv);
  symbols.Find("ncclBroadcast", &library->broadcast);
  symbols.Find("ncclGroupStart", &library->group_start);
  symbols.Find("ncclGroupEnd", &library->group_end);
  symbols.Find("ncclGetErrorString", &library->get_error_string);
  symbols.Find("ncclGetLastError", &library->get_last_error);
  return symbols.missing();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const NcclLibrary>> NcclLibrary::Load(const std::string& path) {
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const why = dlerror();
    return absl::NotFoundError(absl::StrCat("NCCL is not here: ", why == nullptr ? path.c_str() : why));
  }
  auto library = std::make_shared<NcclLibrary>();
  library->path = path;
  if (const char* const missing = FindAll(handle, library.get()); missing != nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(path, " has no entry point ", missing));
  }
  if (const int result = library->get_version(&library->version); result != nccl::kSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " does not say its version: ", library->get_error_string(result)));
  }
  if (library->version < kOldestNcclVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is NCCL ", NcclVersionName(library->version),
                                                      "; at least ", NcclVersionName(kOldestNcclVersion),
                                                      " is needed"));
  }
  return std::shared_ptr<const NcclLibrary>(std::move(library));
}

std::string NcclVersionName(int version) {
  // Up to 2.8 the minor number had one digit less: 2808 was 2.8.8.
  const int major = version >= 10000 ? version / 10000 : version / 1000;
  const int minor = version >= 10000 ? version / 100 % 100 : version / 100 % 10;
  return absl::StrCat(major, ".", minor, ".", version % 100);
}

}  // namespace kvist
