// The shim of libnccl as a test loads it: each Shim is a copy of the file, with faults of its own.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_SHIM_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_SHIM_H_

#include <cstdint>
#include <memory>
#include <string>

#include "services/transport/nccl/nccl_library.h"

namespace kvist::testing {

class Shim {
 public:
  Shim();
  ~Shim();  // ends every fault, so that no thread hangs on
  Shim(const Shim&) = delete;

  const std::string& path() const { return path_; }
  std::shared_ptr<const NcclLibrary> library() const { return library_; }
  void Set(const char* fault, int64_t value);  // tests/nccl_shim/shim_control.h
  int64_t communicators() const;               // that live in the library

 private:
  std::string path_;
  void* handle_ = nullptr;
  std::shared_ptr<const NcclLibrary> library_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_SHIM_H_
