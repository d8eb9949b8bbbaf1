#include "tests/services/transport/nccl/shim.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/e2e/process.h"
#include "tests/nccl_shim/shim_control.h"

namespace kvist::testing {
namespace {

void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "shim: %s\n", what.c_str());
  std::abort();
}

std::string CopyOfShim() {
  static std::atomic<int> copies{0};
  const char* const folder = std::getenv("TEST_TMPDIR");
  const std::string path =
      absl::StrCat(folder == nullptr ? "/tmp" : folder, "/libnccl-", getpid(), "-", ++copies, ".so");
  std::filesystem::copy_file(Runfile("tests/nccl_shim/libnccl_shim.so"), path,
                             std::filesystem::copy_options::overwrite_existing);
  return path;
}

}  // namespace

Shim::Shim() : path_(CopyOfShim()) {
  absl::StatusOr<std::shared_ptr<const NcclLibrary>> library = NcclLibrary::Load(path_);
  Require(library.ok(), library.status().ToString());
  library_ = *library;
  handle_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_NOLOAD);
  Require(handle_ != nullptr, "not loaded");
}
Shim::~Shim() {
  for (const char* fault : {"hang_init", "hang_group_end", "hang_abort", "hang_id", "async_error", "bytes_per_ms"}) {
    Set(fault, 0);
  }
  std::filesystem::remove(path_);
}

void Shim::Set(const char* fault, int64_t value) {
  reinterpret_cast<ShimSet*>(dlsym(handle_, "kvist_shim_set"))(fault, value);
}
int64_t Shim::communicators() const {
  return reinterpret_cast<ShimCount*>(dlsym(handle_, "kvist_shim_communicators"))();
}

}  // namespace kvist::testing
