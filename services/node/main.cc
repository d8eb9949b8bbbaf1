#include "cachestore/cuda_device.h"
#include "services/node/kvistd.h"

int main(int argc, char** argv) { return kvist::RunKvistd(argc, argv, kvist::OpenCudaDevice); }
