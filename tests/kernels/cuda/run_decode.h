// RunDecode: on the emulated grid, or with KVIST_ON_DEVICE on the device.
#ifndef KVIST_TESTS_KERNELS_CUDA_RUN_DECODE_H_
#define KVIST_TESTS_KERNELS_CUDA_RUN_DECODE_H_

#if KVIST_ON_DEVICE
#include "tests/kernels/cuda/on_device.h"
#else
#include "tests/kernels/cuda/emulated.h"
#endif

#endif  // KVIST_TESTS_KERNELS_CUDA_RUN_DECODE_H_
