// Two ends in one process, each with its own emulated device, its own shim and its own Communicators; and waiting for what
// they come to.
#ifndef KVIST_TESTS_SERVICES_TRANSPORT_NCCL_PAIR_H_
#define KVIST_TESTS_SERVICES_TRANSPORT_NCCL_PAIR_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/transport/nccl/communicators.h"
#include "tests/device/emulated_device.h"
#include "tests/services/transport/nccl/shim.h"

namespace kvist::testing {

inline constexpr absl::Duration kTestDeadline = absl::Seconds(30);

// True once `holds()`; false after the deadline of the test.
template <typename Condition>
bool Eventually(Condition holds) {
  const absl::Time end = absl::Now() + kTestDeadline;
  while (!holds()) {
    if (absl::Now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

inline std::vector<uint8_t> Bytes(size_t size, uint32_t seed) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = uint8_t((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

// Short limits where a test waits for them to pass; long ones elsewhere, for slow machines.
inline NcclLimits TestLimits() {
  NcclLimits limits;
  limits.open_limit = limits.call_limit = limits.close_limit = kTestDeadline;
  limits.least_idle = absl::ZeroDuration();
  return limits;
}

struct End {
  explicit End(NcclLimits limits = TestLimits(), int ordinal = 0)
      : device(EmulatedDevice::Create({uint64_t{256} << 20, false, ordinal})),
        communicators(std::make_unique<Communicators>(shim.library(), device.get(), limits)) {}

  std::shared_ptr<DeviceMemory> Memory(uint64_t size_bytes) { return *device->Allocate(size_bytes); }
  std::shared_ptr<DeviceMemory> Holding(const std::vector<uint8_t>& bytes) {
    std::shared_ptr<DeviceMemory> memory = Memory(bytes.size());
    device->Write(memory->base(), bytes);
    return memory;
  }

  Shim shim;
  std::shared_ptr<EmulatedDevice> device;
  std::unique_ptr<Communicators> communicators;
};

// What became of a submitted operation.
class Outcome {
 public:
  std::function<void(absl::Status)> Done() {
    return [promise = promise_](absl::Status status) { promise->set_value(std::move(status)); };
  }
  bool ready() const { return future_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
  absl::Status Wait() {
    if (future_.wait_for(absl::ToChronoSeconds(kTestDeadline)) != std::future_status::ready) {
      return absl::InternalError("the test's own deadline has passed");
    }
    return future_.get();
  }

 private:
  std::shared_ptr<std::promise<absl::Status>> promise_ = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> future_ = promise_->get_future();
};

struct Pair {
  std::shared_ptr<Communicator> node, worker;
};

// Null ends: the library made no id.
inline Pair OpenPair(Communicators* node, Communicators* worker) {
  auto made = std::make_shared<std::promise<absl::StatusOr<nccl::UniqueId>>>();
  auto id = made->get_future();
  Pair pair;
  pair.node = *node->Open({0, 2, std::nullopt, [made](auto result) { made->set_value(std::move(result)); }});
  const absl::StatusOr<nccl::UniqueId> unique = id.get();
  if (unique.ok()) pair.worker = *worker->Open({1, 2, *unique, nullptr});
  return pair;
}

inline Operation Sending(const std::shared_ptr<DeviceMemory>& memory, Outcome* outcome,
                         absl::Duration limit = kTestDeadline) {
  return {Operation::Kind::kSend, 1, {{memory->base(), memory->size_bytes()}}, nullptr, memory, absl::Now() + limit,
          outcome->Done()};
}
inline Operation Receiving(const std::shared_ptr<DeviceMemory>& memory, Outcome* outcome,
                           absl::Duration limit = kTestDeadline) {
  return {Operation::Kind::kReceive,
          0,
          {{memory->base(), memory->size_bytes()}},
          nullptr,
          memory,
          absl::Now() + limit,
          outcome->Done()};
}

inline bool IsReady(const std::shared_ptr<Communicator>& communicator) {
  return communicator->stage() == Communicator::Stage::kReady;
}

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TRANSPORT_NCCL_PAIR_H_
