// What the runtime says of a launch, as a Status: for the dispatch of decode and of encode.
//
// Threads any.
// Errors  Internal, with the runtime's words.
#ifndef KVIST_KERNELS_CUDA_LAUNCH_STATUS_H_
#define KVIST_KERNELS_CUDA_LAUNCH_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/launch.h"

namespace kvist::cuda {

inline absl::Status StatusOfLaunch(const char* what, int error) {
  if (error == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("launch of ", what, ": ", ErrorText(error)));
}

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_LAUNCH_STATUS_H_
