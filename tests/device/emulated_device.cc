#include "tests/device/emulated_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist::testing {
namespace {

constexpr uint64_t kPage = 4096;

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "emulated device: %s\n", what);
  std::abort();
}

// Ranges of addresses and what the host may use in their place; one registry for the process.
class Ranges {
 public:
  void Add(uint64_t base, uint64_t size_bytes, uint8_t* alias) {
    const std::lock_guard lock(mutex_);
    ranges_[base] = {size_bytes, alias};
    if (kernels_ > 0) Protect(base, size_bytes, PROT_READ | PROT_WRITE);
  }
  void BeginKernel() {
    const std::lock_guard lock(mutex_);
    if (++kernels_ == 1) ProtectAll(PROT_READ | PROT_WRITE);
  }
  void EndKernel() {
    const std::lock_guard lock(mutex_);
    if (--kernels_ == 0) ProtectAll(PROT_NONE);
  }
  void Remove(uint64_t base) {
    const std::lock_guard lock(mutex_);
    ranges_.erase(base);
  }
  // Null if [address, address + size_bytes) is not inside one range.
  uint8_t* Find(uint64_t address, uint64_t size_bytes) {
    const std::lock_guard lock(mutex_);
    auto next = ranges_.upper_bound(address);
    if (next == ranges_.begin()) return nullptr;
    const auto& [base, range] = *std::prev(next);
    const uint64_t offset = address - base;
    return offset <= range.size_bytes && size_bytes <= range.size_bytes - offset ? range.alias + offset : nullptr;
  }

 private:
  struct Range {
    uint64_t size_bytes;
    uint8_t* alias;
  };
  static void Protect(uint64_t base, uint64_t size_bytes, int protection);
  void ProtectAll(int protection) {
    for (const auto& [base, range] : ranges_) Protect(base, range.size_bytes, protection);
  }

  std::mutex mutex_;
  std::map<uint64_t, Range> ranges_;
  int kernels_ = 0;  // that run now
};

Ranges& DeviceRanges() {
  static Ranges* const ranges = new Ranges;  // streams may outlive static objects
  return *ranges;
}
Ranges& PinnedRanges() {
  static Ranges* const ranges = new Ranges;
  return *ranges;
}

uint8_t* Map(uint64_t size_bytes, int protection, int flags, int fd) {
  void* const at = mmap(nullptr, size_bytes, protection, flags, fd, 0);
  Require(at != MAP_FAILED, "mmap failed");
  return static_cast<uint8_t*>(at);
}

uint64_t RoundUp(uint64_t size_bytes) { return (size_bytes + kPage - 1) / kPage * kPage; }

void Ranges::Protect(uint64_t base, uint64_t size_bytes, int protection) {
  Require(mprotect(reinterpret_cast<void*>(base), RoundUp(size_bytes), protection) == 0, "mprotect failed");
}

}  // namespace

EmulatedKernel::EmulatedKernel() { DeviceRanges().BeginKernel(); }
EmulatedKernel::~EmulatedKernel() { DeviceRanges().EndKernel(); }

struct EmulatedDevice::Core {
  DeviceDescription description;
  mutable std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  uint64_t allocated_bytes = 0, pinned_bytes = 0, pinned_limit_bytes = 0;
  bool held = false, starved = false;
  std::string failure;  // empty while the device works

  absl::Status HealthLocked() const {
    return failure.empty() ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("device failed: ", failure));
  }
  absl::Status Health() const {
    const std::lock_guard lock(mutex);
    return HealthLocked();
  }
  // Whether something new can be made.
  absl::Status Room() const {
    const std::lock_guard lock(mutex);
    if (failure.empty() && starved) return absl::ResourceExhaustedError("device memory: none is left");
    return HealthLocked();
  }
};

namespace {

using Core = EmulatedDevice::Core;

class Event final : public DeviceEvent {
 public:
  explicit Event(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  absl::StatusOr<bool> Done() override {
    const std::lock_guard lock(core_->mutex);
    if (!core_->failure.empty()) return core_->HealthLocked();
    return *done_;
  }

  const std::shared_ptr<Core> core_;
  const std::shared_ptr<bool> done_ = std::make_shared<bool>(false);  // guarded by the core's mutex
};

class EmulatedStream final : public Stream {
 public:
  explicit EmulatedStream(std::shared_ptr<Core> core) : core_(std::move(core)), thread_([this] { Run(); }) {}

  ~EmulatedStream() override {
    {
      const std::lock_guard lock(core_->mutex);
      closing_ = true;
    }
    core_->changed.notify_all();
    thread_.join();
  }

  absl::Status CopyToDevice(DeviceAddress to, absl::Span<const uint8_t> from) override {
    Require(PinnedRanges().Find(reinterpret_cast<uint64_t>(from.data()), from.size()) != nullptr,
            "a copy from host memory that is not pinned");
    uint8_t* const alias = Alias(to, from.size());
    return Enqueue([alias, from] { std::memcpy(alias, from.data(), from.size()); });
  }
  absl::Status CopyToHost(absl::Span<uint8_t> to, DeviceAddress from) override {
    Require(PinnedRanges().Find(reinterpret_cast<uint64_t>(to.data()), to.size()) != nullptr,
            "a copy to host memory that is not pinned");
    uint8_t* const alias = Alias(from, to.size());
    return Enqueue([alias, to] { std::memcpy(to.data(), alias, to.size()); });
  }
  absl::Status CopyOnDevice(DeviceAddress to, DeviceAddress from, uint64_t size_bytes) override {
    uint8_t* const into = Alias(to, size_bytes);
    const uint8_t* const out_of = Alias(from, size_bytes);
    return Enqueue([=] { std::memmove(into, out_of, size_bytes); });
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> Record() override {
    if (absl::Status status = core_->Room(); !status.ok()) return status;
    auto event = std::make_unique<Event>(core_);
    if (absl::Status status = Enqueue([core = core_, done = event->done_] {
          const std::lock_guard lock(core->mutex);
          *done = true;
        });
        !status.ok()) {
      return status;
    }
    return event;
  }
  absl::Status WaitFor(const DeviceEvent& event) override {
    return Enqueue([this, done = static_cast<const Event&>(event).done_] {
      std::unique_lock lock(core_->mutex);
      core_->changed.wait(lock, [&] { return *done || Stopped(); });
    });
  }
  void* native() override { return this; }

  absl::Status Enqueue(std::function<void()> work) {
    {
      const std::lock_guard lock(core_->mutex);
      if (!core_->failure.empty()) return core_->HealthLocked();
      queue_.push_back(std::move(work));
    }
    core_->changed.notify_all();
    return absl::OkStatus();
  }

 private:
  static uint8_t* Alias(DeviceAddress address, uint64_t size_bytes) {
    uint8_t* const alias = DeviceRanges().Find(address.value, size_bytes);
    Require(alias != nullptr, "a copy outside device memory");
    return alias;
  }

  // Nothing more is to be waited for: the stream closes while it is held, or the device has failed.
  bool Stopped() const { return !core_->failure.empty() || (closing_ && core_->held); }

  void Run() {
    std::unique_lock lock(core_->mutex);
    for (;;) {
      core_->changed.wait(lock, [&] { return closing_ || Stopped() || (!core_->held && !queue_.empty()); });
      if (Stopped()) queue_.clear();
      if (queue_.empty()) {
        if (closing_) return;
        core_->changed.wait(lock, [&] { return closing_ || (core_->failure.empty() && !queue_.empty()); });
        continue;
      }
      std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      work = nullptr;
      lock.lock();
      core_->changed.notify_all();
    }
  }

  const std::shared_ptr<Core> core_;
  // Guarded by the core's mutex.
  std::deque<std::function<void()>> queue_;
  bool closing_ = false;
  std::thread thread_;
};

class Memory final : public DeviceMemory {
 public:
  // Takes the descriptor.
  Memory(std::shared_ptr<Core> core, int fd, uint64_t size_bytes, uint64_t charge_bytes)
      : DeviceMemory({reinterpret_cast<uint64_t>(Map(RoundUp(size_bytes), PROT_NONE, MAP_SHARED, fd))}, size_bytes),
        core_(std::move(core)),
        fd_(fd),
        charge_bytes_(charge_bytes),
        alias_(Map(RoundUp(size_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd)) {
    DeviceRanges().Add(base().value, size_bytes, alias_);
  }
  ~Memory() override {
    DeviceRanges().Remove(base().value);
    munmap(alias_, RoundUp(size_bytes()));
    munmap(base().pointer(), RoundUp(size_bytes()));
    close(fd_);
    const std::lock_guard lock(core_->mutex);
    core_->allocated_bytes -= charge_bytes_;
  }
  int fd() const { return fd_; }

 private:
  const std::shared_ptr<Core> core_;
  const int fd_;
  const uint64_t charge_bytes_;
  uint8_t* const alias_;
};

class Pinned final : public PinnedMemory {
 public:
  Pinned(std::shared_ptr<Core> core, uint64_t size_bytes)
      : PinnedMemory({Map(RoundUp(size_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1), size_bytes}),
        core_(std::move(core)) {
    PinnedRanges().Add(reinterpret_cast<uint64_t>(bytes().data()), size_bytes, bytes().data());
  }
  ~Pinned() override {
    PinnedRanges().Remove(reinterpret_cast<uint64_t>(bytes().data()));
    munmap(bytes().data(), RoundUp(bytes().size()));
    const std::lock_guard lock(core_->mutex);
    core_->pinned_bytes -= bytes().size();
  }

 private:
  const std::shared_ptr<Core> core_;
};

// What an IpcHandle of this device says.
struct Shared {
  pid_t process;
  int fd;
};

}  // namespace

EmulatedDevice::EmulatedDevice(std::shared_ptr<Core> core) : core_(std::move(core)) {}
EmulatedDevice::~EmulatedDevice() = default;

std::unique_ptr<EmulatedDevice> EmulatedDevice::Create(const Options& options) {
  auto core = std::make_shared<Core>();
  DeviceDescription& description = core->description;
  description.ordinal = options.ordinal;
  description.name = "emulated";
  description.uuid.fill(uint8_t(0xe0 + options.ordinal));
  description.memory_bytes = options.memory_bytes;
  description.driver_version = description.runtime_version = 13000;
  description.mig = options.mig;
  core->pinned_limit_bytes = options.pinned_bytes;
  return std::unique_ptr<EmulatedDevice>(new EmulatedDevice(std::move(core)));
}

const DeviceDescription& EmulatedDevice::description() const { return core_->description; }

absl::StatusOr<std::unique_ptr<DeviceMemory>> EmulatedDevice::Allocate(uint64_t size_bytes) {
  if (absl::Status status = core_->Room(); !status.ok()) return status;
  const std::lock_guard lock(core_->mutex);
  const uint64_t free_bytes = core_->description.memory_bytes - core_->allocated_bytes;
  if (size_bytes == 0) return absl::InvalidArgumentError("an allocation of 0 bytes");
  if (size_bytes > free_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("device memory: ", size_bytes, " bytes asked, ", free_bytes, " free"));
  }
  const int fd = memfd_create("emulated device", MFD_CLOEXEC);
  Require(fd >= 0 && ftruncate(fd, off_t(RoundUp(size_bytes))) == 0, "no memory file");
  core_->allocated_bytes += size_bytes;
  return std::make_unique<Memory>(core_, fd, size_bytes, size_bytes);
}

absl::StatusOr<std::unique_ptr<PinnedMemory>> EmulatedDevice::AllocatePinned(uint64_t size_bytes) {
  if (absl::Status status = core_->Room(); !status.ok()) return status;
  if (size_bytes == 0) return absl::InvalidArgumentError("an allocation of 0 bytes");
  {
    const std::lock_guard lock(core_->mutex);
    const uint64_t free_bytes = core_->pinned_limit_bytes - core_->pinned_bytes;
    if (size_bytes > free_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("pinned: ", size_bytes, " bytes asked, ", free_bytes, " free"));
    }
    core_->pinned_bytes += size_bytes;
  }
  return std::make_unique<Pinned>(core_, size_bytes);
}

absl::StatusOr<std::unique_ptr<Stream>> EmulatedDevice::NewStream() {
  if (absl::Status status = core_->Room(); !status.ok()) return status;
  return std::make_unique<EmulatedStream>(core_);
}

absl::StatusOr<IpcHandle> EmulatedDevice::Export(const DeviceMemory& memory) {
  if (absl::Status status = core_->Health(); !status.ok()) return status;
  if (core_->description.mig) return absl::FailedPreconditionError("a MIG slice cannot share its memory");
  const Shared shared = {getpid(), static_cast<const Memory&>(memory).fd()};
  IpcHandle handle;
  static_assert(sizeof(shared) <= sizeof(handle.bytes));
  std::memcpy(handle.bytes.data(), &shared, sizeof(shared));
  handle.size_bytes = memory.size_bytes();
  return handle;
}

absl::StatusOr<std::unique_ptr<DeviceMemory>> EmulatedDevice::Import(const IpcHandle& handle) {
  if (absl::Status status = core_->Health(); !status.ok()) return status;
  if (core_->description.mig) return absl::FailedPreconditionError("a MIG slice cannot map the memory of others");
  Shared shared;
  std::memcpy(&shared, handle.bytes.data(), sizeof(shared));
  const int fd = open(absl::StrCat("/proc/", shared.process, "/fd/", shared.fd).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat("process ", shared.process, " shares no such memory"));
  return std::make_unique<Memory>(core_, fd, handle.size_bytes, 0);
}

absl::Status EmulatedDevice::Health() { return core_->Health(); }

void EmulatedDevice::Fail(std::string why) {
  {
    const std::lock_guard lock(core_->mutex);
    core_->failure = std::move(why);
  }
  core_->changed.notify_all();
}

void EmulatedDevice::Hold() {
  const std::lock_guard lock(core_->mutex);
  core_->held = true;
}

void EmulatedDevice::Resume() {
  {
    const std::lock_guard lock(core_->mutex);
    core_->held = false;
  }
  core_->changed.notify_all();
}

void EmulatedDevice::Starve(bool starved) {
  const std::lock_guard lock(core_->mutex);
  core_->starved = starved;
}

uint64_t EmulatedDevice::allocated_bytes() const {
  const std::lock_guard lock(core_->mutex);
  return core_->allocated_bytes;
}

uint64_t EmulatedDevice::pinned_bytes() const {
  const std::lock_guard lock(core_->mutex);
  return core_->pinned_bytes;
}

std::vector<uint8_t> EmulatedDevice::Read(DeviceAddress from, uint64_t size_bytes) const {
  const uint8_t* const alias = DeviceRanges().Find(from.value, size_bytes);
  Require(alias != nullptr, "a read outside device memory");
  return std::vector<uint8_t>(alias, alias + size_bytes);
}

void EmulatedDevice::Write(DeviceAddress to, absl::Span<const uint8_t> bytes) {
  uint8_t* const alias = DeviceRanges().Find(to.value, bytes.size());
  Require(alias != nullptr, "a write outside device memory");
  std::memcpy(alias, bytes.data(), bytes.size());
}

uint8_t* EmulatedDevice::HostAlias(DeviceAddress address) const { return DeviceRanges().Find(address.value, 1); }

}  // namespace kvist::testing

uint8_t* kvist_emulated_alias(void* device_pointer) {
  return kvist::testing::DeviceRanges().Find(reinterpret_cast<uint64_t>(device_pointer), 1);
}

void kvist_emulated_enqueue(void* native_stream, void (*work)(void*), void* argument) {
  // A device that has failed runs nothing; whoever waits for the work sees the failure at its event.
  (void)static_cast<kvist::testing::EmulatedStream*>(native_stream)->Enqueue([=] { work(argument); });
}
