// Runs a test's body once for each vector target that this CPU has and Decode can be dispatched to, and once for the
// scalar fallback.
#ifndef KVIST_TESTS_KERNELS_TARGETS_H_
#define KVIST_TESTS_KERNELS_TARGETS_H_

#include <hwy/targets.h>

#include "gtest/gtest.h"

namespace kvist {

template <typename Body>
void ForEachTarget(const Body& body) {
  for (int64_t target : {int64_t(HWY_AVX3), int64_t(HWY_AVX2), int64_t{0}}) {
    if (target != 0 && (hwy::SupportedTargets() & target) == 0) continue;
    hwy::GetChosenTarget().Update(target);
    SCOPED_TRACE(target == 0 ? "scalar" : hwy::TargetName(target));
    body();
  }
  hwy::GetChosenTarget().DeInit();
}

}  // namespace kvist

#endif  // KVIST_TESTS_KERNELS_TARGETS_H_
