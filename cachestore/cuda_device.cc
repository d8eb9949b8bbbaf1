#include "cachestore/cuda_device.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cachestore/cuda_verdicts.h"

namespace kvist {
namespace {

// The numbers of cuda_verdicts.h are NVIDIA's.
static_assert(CudaError::kInvalidValue == cudaErrorInvalidValue);
static_assert(CudaError::kMemoryAllocation == cudaErrorMemoryAllocation);
static_assert(CudaError::kCudartUnloading == cudaErrorCudartUnloading);
static_assert(CudaError::kInsufficientDriver == cudaErrorInsufficientDriver);
static_assert(CudaError::kNoDevice == cudaErrorNoDevice);
static_assert(CudaError::kDeviceUninitialized == cudaErrorDeviceUninitialized);
static_assert(CudaError::kEccUncorrectable == cudaErrorECCUncorrectable);
static_assert(CudaError::kNvlinkUncorrectable == cudaErrorNvlinkUncorrectable);
static_assert(CudaError::kContained == cudaErrorContained);
static_assert(CudaError::kIllegalAddress == cudaErrorIllegalAddress);
static_assert(CudaError::kLaunchTimeout == cudaErrorLaunchTimeout);
static_assert(CudaError::kContextIsDestroyed == cudaErrorContextIsDestroyed);
static_assert(CudaError::kAssert == cudaErrorAssert);
static_assert(CudaError::kHardwareStackError == cudaErrorHardwareStackError);
static_assert(CudaError::kIllegalInstruction == cudaErrorIllegalInstruction);
static_assert(CudaError::kMisalignedAddress == cudaErrorMisalignedAddress);
static_assert(CudaError::kInvalidAddressSpace == cudaErrorInvalidAddressSpace);
static_assert(CudaError::kInvalidPc == cudaErrorInvalidPc);
static_assert(CudaError::kLaunchFailure == cudaErrorLaunchFailure);
static_assert(CudaError::kTensorMemoryLeak == cudaErrorTensorMemoryLeak);
static_assert(CudaError::kMpsClientTerminated == cudaErrorMpsClientTerminated);
static_assert(CudaError::kExternalDevice == cudaErrorExternalDevice);
static_assert(CudaError::kUnknown == cudaErrorUnknown);

std::string Words(cudaError_t error) { return absl::StrCat(cudaGetErrorName(error), ": ", cudaGetErrorString(error)); }

// Whether the device still answers, and if not, why: shared by all that hang on it.
class Fate {
 public:
  explicit Fate(int ordinal) : ordinal_(ordinal) {}

  // Before every call: this thread means this device, if it is still there.
  absl::Status Enter() {
    if (absl::Status health = Health(); !health.ok()) return health;
    return Judge(cudaSetDevice(ordinal_), "cudaSetDevice");
  }
  absl::Status Judge(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return absl::OkStatus();
    cudaGetLastError();  // an error that is not sticky shall not be told to the next call as well
    const absl::Status status = StatusOfCuda(error, absl::StrCat("GPU ", ordinal_, ", ", call, ": ", Words(error)));
    if (!absl::IsUnavailable(status)) return status;
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok()) failure_ = status;
    return failure_;
  }
  absl::Status Health() {
    std::lock_guard<std::mutex> lock(mutex_);
    return failure_;
  }

 private:
  const int ordinal_;
  std::mutex mutex_;
  absl::Status failure_;
};
using FateRef = std::shared_ptr<Fate>;

class CudaEvent final : public DeviceEvent {
 public:
  CudaEvent(FateRef fate, cudaEvent_t event) : fate_(std::move(fate)), event_(event) {}
  ~CudaEvent() override { cudaEventDestroy(event_); }
  absl::StatusOr<bool> Done() override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    if (absl::Status status = fate_->Judge(state, "cudaEventQuery"); !status.ok()) return status;
    return true;
  }
  cudaEvent_t event() const { return event_; }

 private:
  const FateRef fate_;
  const cudaEvent_t event_;
};

class CudaStream final : public Stream {
 public:
  CudaStream(FateRef fate, cudaStream_t stream) : fate_(std::move(fate)), stream_(stream) {}
  ~CudaStream() override { cudaStreamDestroy(stream_); }  // returns at once; what is on it still runs

  absl::Status CopyToDevice(DeviceAddress to, absl::Span<const uint8_t> from) override {
    return Copy(to.pointer(), from.data(), from.size(), cudaMemcpyHostToDevice);
  }
  absl::Status CopyToHost(absl::Span<uint8_t> to, DeviceAddress from) override {
    return Copy(to.data(), from.pointer(), to.size(), cudaMemcpyDeviceToHost);
  }
  absl::Status CopyOnDevice(DeviceAddress to, DeviceAddress from, uint64_t size_bytes) override {
    return Copy(to.pointer(), from.pointer(), size_bytes, cudaMemcpyDeviceToDevice);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> Record() override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    cudaEvent_t event = nullptr;
    absl::Status made = fate_->Judge(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    if (!made.ok()) return made;
    auto owned = std::make_unique<CudaEvent>(fate_, event);
    if (absl::Status status = fate_->Judge(cudaEventRecord(event, stream_), "cudaEventRecord"); !status.ok()) {
      return status;
    }
    return std::unique_ptr<DeviceEvent>(std::move(owned));
  }
  absl::Status WaitFor(const DeviceEvent& event) override {
    const auto* cuda_event = dynamic_cast<const CudaEvent*>(&event);
    if (cuda_event == nullptr) return absl::InvalidArgumentError("the event is not one of a CUDA device");
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    return fate_->Judge(cudaStreamWaitEvent(stream_, cuda_event->event(), 0), "cudaStreamWaitEvent");
  }
  void* native() override { return stream_; }

 private:
  absl::Status Copy(void* to, const void* from, uint64_t size_bytes, cudaMemcpyKind kind) {
    if (size_bytes == 0) return absl::OkStatus();
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    return fate_->Judge(cudaMemcpyAsync(to, from, size_bytes, kind, stream_), "cudaMemcpyAsync");
  }

  const FateRef fate_;
  const cudaStream_t stream_;
};

class CudaMemory final : public DeviceMemory {
 public:
  CudaMemory(FateRef fate, void* base, uint64_t size_bytes, bool imported)
      : DeviceMemory({reinterpret_cast<uint64_t>(base)}, size_bytes), fate_(std::move(fate)), imported_(imported) {}
  ~CudaMemory() override {
    if (!fate_->Enter().ok()) return;  // the memory of a dead context is not ours to give back
    imported_ ? cudaIpcCloseMemHandle(base().pointer()) : cudaFree(base().pointer());
    cudaGetLastError();
  }

 private:
  const FateRef fate_;
  const bool imported_;
};

class CudaPinned final : public PinnedMemory {
 public:
  CudaPinned(FateRef fate, uint8_t* base, uint64_t size_bytes)
      : PinnedMemory({base, size_bytes}), fate_(std::move(fate)) {}
  ~CudaPinned() override {
    cudaFreeHost(bytes().data());
    cudaGetLastError();
  }

 private:
  const FateRef fate_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(FateRef fate, DeviceDescription description)
      : fate_(std::move(fate)), description_(std::move(description)) {}

  const DeviceDescription& description() const override { return description_; }

  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(uint64_t size_bytes) override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    void* base = nullptr;
    if (absl::Status status = fate_->Judge(cudaMalloc(&base, size_bytes), "cudaMalloc"); !status.ok()) {
      return absl::IsResourceExhausted(status) ? OutOfMemory(size_bytes) : status;
    }
    return std::make_unique<CudaMemory>(fate_, base, size_bytes, /*imported=*/false);
  }

  absl::StatusOr<std::unique_ptr<PinnedMemory>> AllocatePinned(uint64_t size_bytes) override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    void* base = nullptr;
    const cudaError_t error = cudaHostAlloc(&base, size_bytes, cudaHostAllocPortable);
    if (absl::Status status = fate_->Judge(error, "cudaHostAlloc"); !status.ok()) {
      if (!absl::IsResourceExhausted(status)) return status;
      return absl::ResourceExhaustedError(absl::StrCat("cannot pin ", size_bytes, " bytes of host memory for GPU ",
                                                       description_.ordinal, ": see free memory and `ulimit -l`"));
    }
    return std::make_unique<CudaPinned>(fate_, static_cast<uint8_t*>(base), size_bytes);
  }

  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    cudaStream_t stream = nullptr;
    const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (absl::Status status = fate_->Judge(error, "cudaStreamCreate"); !status.ok()) return status;
    return std::make_unique<CudaStream>(fate_, stream);
  }

  absl::StatusOr<IpcHandle> Export(const DeviceMemory& memory) override {
    if (description_.mig) {
      return absl::FailedPreconditionError(absl::StrCat("GPU ", description_.ordinal, " (", description_.name,
                                                        ") is a MIG slice, whose memory CUDA shares with no process"));
    }
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    cudaIpcMemHandle_t native;
    const cudaError_t error = cudaIpcGetMemHandle(&native, memory.base().pointer());
    if (absl::Status status = fate_->Judge(error, "cudaIpcGetMemHandle"); !status.ok()) return status;
    IpcHandle handle;
    static_assert(sizeof(native) == sizeof(handle.bytes));
    std::memcpy(handle.bytes.data(), &native, sizeof(native));
    handle.size_bytes = memory.size_bytes();
    return handle;
  }

  absl::StatusOr<std::unique_ptr<DeviceMemory>> Import(const IpcHandle& handle) override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    cudaIpcMemHandle_t native;
    std::memcpy(&native, handle.bytes.data(), sizeof(native));
    void* base = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&base, native, cudaIpcMemLazyEnablePeerAccess);
    if (absl::Status status = fate_->Judge(error, "cudaIpcOpenMemHandle"); !status.ok()) return status;
    return std::make_unique<CudaMemory>(fate_, base, handle.size_bytes, /*imported=*/true);
  }

  absl::Status MakeCurrent() override { return fate_->Enter(); }

  // Asks the runtime, too: an error of a kernel that others launched shows up here.
  absl::Status Health() override {
    if (absl::Status status = fate_->Enter(); !status.ok()) return status;
    const cudaError_t state = cudaStreamQuery(cudaStreamLegacy);
    if (state == cudaErrorNotReady) {
      cudaGetLastError();
      return absl::OkStatus();
    }
    return fate_->Judge(state, "cudaStreamQuery");
  }

 private:
  absl::Status OutOfMemory(uint64_t size_bytes) {
    size_t free_bytes = 0, total_bytes = 0;
    if (absl::Status status = fate_->Judge(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"); !status.ok()) {
      return status;
    }
    return OutOfDeviceMemory(description_.ordinal, description_.name, size_bytes, free_bytes, total_bytes);
  }

  const FateRef fate_;
  const DeviceDescription description_;
};

DriverAnswer AskDriver() {
  DriverAnswer answer;
  cudaDriverGetVersion(&answer.driver_version);
  cudaRuntimeGetVersion(&answer.runtime_version);
  const cudaError_t error = cudaGetDeviceCount(&answer.devices);
  answer.error = error;
  answer.error_words = Words(error);
  cudaGetLastError();
  return answer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int ordinal) {
  const DriverAnswer answer = AskDriver();
  const absl::StatusOr<int> devices = DevicesOf(answer);
  if (!devices.ok()) return devices.status();
  if (absl::Status status = CheckOrdinal(ordinal, *devices); !status.ok()) return status;
  const auto fate = std::make_shared<Fate>(ordinal);
  if (absl::Status status = fate->Enter(); !status.ok()) return absl::UnavailableError(status.message());
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal);
  if (absl::Status status = fate->Judge(error, "cudaGetDeviceProperties"); !status.ok()) {
    return absl::UnavailableError(status.message());
  }
  DeviceDescription description;
  description.driver_version = answer.driver_version;
  description.runtime_version = answer.runtime_version;
  description.ordinal = ordinal;
  description.name = properties.name;
  std::memcpy(description.uuid.data(), properties.uuid.bytes, description.uuid.size());
  description.memory_bytes = properties.totalGlobalMem;
  description.mig = IsMigSlice(description.name);
  return std::make_unique<CudaDevice>(fate, std::move(description));
}

}  // namespace kvist
