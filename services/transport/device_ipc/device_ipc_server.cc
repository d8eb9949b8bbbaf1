#include "services/transport/device_ipc/device_ipc_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <list>
#include <map>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cachestore/key.h"
#include "kvist/v1/device_ipc.pb.h"
#include "services/transport/device_ipc/message_socket.h"
#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr size_t kKeyBytes = sizeof(Key::bytes);
constexpr size_t kLongestRequest = size_t{64} << 10;
constexpr int kLongestNapMs = 1000;
constexpr int kDeafMs = 100;                // after a connection that could not be accepted
constexpr size_t kMostRequestsARound = 16;  // of one worker, before the others have their turn

// What one worker holds, by request and place.
class Pins {
 public:
  void Add(uint64_t request, uint32_t place, std::unique_ptr<DevicePin> pin, SteadyClock::time_point until) {
    Batch& batch = batches_[request];
    batch.until = until;
    batch.pins[place] = std::move(pin);
    ++size_;
  }
  void Drop(uint64_t request, uint32_t place) {
    const auto batch = batches_.find(request);
    if (batch == batches_.end()) return;
    size_ -= batch->second.pins.erase(place);
    if (batch->second.pins.empty()) batches_.erase(batch);
  }
  void Drop(uint64_t request) {
    const auto batch = batches_.find(request);
    if (batch == batches_.end()) return;
    size_ -= batch->second.pins.size();
    batches_.erase(batch);
  }
  // Requests count up and all pins live equally long, so the first is the oldest. Returns how many went.
  size_t DropExpired(SteadyClock::time_point now) {
    const size_t before = size_;
    while (!batches_.empty() && batches_.begin()->second.until <= now) Drop(batches_.begin()->first);
    return before - size_;
  }
  std::optional<SteadyClock::time_point> first_end() const {
    if (batches_.empty()) return std::nullopt;
    return batches_.begin()->second.until;
  }
  size_t size() const { return size_; }
  bool MayUse(uint64_t request) const { return batches_.empty() || request > batches_.rbegin()->first; }

 private:
  struct Batch {
    SteadyClock::time_point until;
    std::map<uint32_t, std::unique_ptr<DevicePin>> pins;
  };
  std::map<uint64_t, Batch> batches_;
  size_t size_ = 0;
};

struct Worker {
  explicit Worker(int fd) : socket(fd, kLongestRequest) {}
  MessageSocket socket;
  Pins pins;
  bool welcome = false, gone = false;
};

class Server final : public DeviceIpcServer {
 public:
  Server(DeviceIpcOptions options, Device* device, const DeviceMemory* memory, DeviceBlocks* blocks, IpcHandle handle,
         int listener, int wake)
      : options_(std::move(options)),
        device_(device),
        memory_(memory),
        blocks_(blocks),
        handle_(handle),
        listener_(listener),
        wake_(wake),
        thread_([this] { Run(); }) {}

  ~Server() override {
    stopping_.store(true);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t woken = write(wake_, &one, sizeof(one));
    thread_.join();
    close(listener_);
    close(wake_);
    unlink(options_.path.c_str());
  }

  DeviceIpcCounters counters() const override {
    DeviceIpcCounters counters;
    counters.workers = workers_now_.load(std::memory_order_relaxed);
    counters.pins = pins_now_.load(std::memory_order_relaxed);
    counters.blocks = blocks_given_.load(std::memory_order_relaxed);
    counters.expired_pins = expired_pins_.load(std::memory_order_relaxed);
    counters.refused = refused_.load(std::memory_order_relaxed);
    return counters;
  }

 private:
  void Run() {
    std::vector<pollfd> waits;
    while (!stopping_.load()) {
      const bool deaf = SteadyClock::now() < deaf_until_;
      waits.assign({{wake_, POLLIN, 0}, {listener_, static_cast<short>(deaf ? 0 : POLLIN), 0}});
      for (const Worker& worker : workers_) {
        waits.push_back({worker.socket.fd(), static_cast<short>(POLLIN | (worker.socket.unsent() ? POLLOUT : 0)), 0});
      }
      poll(waits.data(), waits.size(), Nap());
      if (stopping_.load()) return;
      more_ = false;
      for (Worker& worker : workers_) Serve(worker);
      workers_.remove_if([](const Worker& worker) { return worker.gone; });
      if ((waits[1].revents & POLLIN) != 0) Accept();
      Count();
    }
  }

  int Nap() const {
    if (more_) return 0;
    int64_t nap = SteadyClock::now() < deaf_until_ ? kDeafMs : kLongestNapMs;
    for (const Worker& worker : workers_) {
      const auto end = worker.pins.first_end();
      if (!end) continue;
      nap = std::min<int64_t>(nap, std::chrono::ceil<std::chrono::milliseconds>(*end - SteadyClock::now()).count());
    }
    return static_cast<int>(std::max<int64_t>(nap, 0));
  }

  void Accept() {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    // Out of descriptors or memory: whoever waits goes on waiting, and so do we, or this thread would spin.
    if (fd < 0) deaf_until_ = SteadyClock::now() + std::chrono::milliseconds(kDeafMs);
    if (fd < 0) return;
    workers_.emplace_back(fd);
    if (workers_.size() <= options_.max_workers) return;
    Refuse(workers_.back(),
           absl::StrCat("the node serves ", options_.max_workers, " workers in device memory already"));
    workers_.pop_back();
  }

  void Count() {
    uint64_t pins = 0;
    for (const Worker& worker : workers_) pins += worker.pins.size();
    pins_now_.store(pins, std::memory_order_relaxed);
    workers_now_.store(workers_.size(), std::memory_order_relaxed);
  }

  void Refuse(Worker& worker, const std::string& why) {
    v1::DeviceIpcReply reply;
    reply.set_refusal(why);
    worker.socket.Send(reply).IgnoreError();
    worker.gone = true;
    refused_.fetch_add(1, std::memory_order_relaxed);
  }

  void Serve(Worker& worker) {
    expired_pins_.fetch_add(worker.pins.DropExpired(SteadyClock::now()), std::memory_order_relaxed);
    for (size_t i = 0; i < kMostRequestsARound && !worker.gone; ++i) {
      absl::StatusOr<std::optional<std::string>> message = worker.socket.Receive();
      if (!message.ok()) worker.gone = true;
      if (worker.gone || !message->has_value()) break;
      v1::DeviceIpcRequest request;
      if (!request.ParseFromString(**message)) {
        Refuse(worker, "what came is no message of protocol kvist.v1.DeviceIpcRequest");
        break;
      }
      Handle(worker, request);
      more_ = more_ || i + 1 == kMostRequestsARound;
    }
    if (!worker.gone && !worker.socket.Flush().ok()) worker.gone = true;
  }

  void Handle(Worker& worker, const v1::DeviceIpcRequest& request) {
    if (request.has_hello()) return Welcome(worker, request.hello());
    if (!worker.welcome) return Refuse(worker, "a hello comes first");
    if (request.has_get()) return Get(worker, request.get());
    if (!request.has_unpin()) return;  // of a later protocol
    const v1::DeviceUnpin& unpin = request.unpin();
    if (unpin.blocks().empty()) worker.pins.Drop(unpin.request());
    for (const uint32_t place : unpin.blocks()) worker.pins.Drop(unpin.request(), place);
  }

  void Welcome(Worker& worker, const v1::DeviceHello& hello) {
    if (worker.welcome) return Refuse(worker, "a second hello");
    if (hello.protocol() != kDeviceIpcProtocol) {
      return Refuse(worker, absl::StrCat("the node speaks protocol ", kDeviceIpcProtocol, ", the worker ",
                                         hello.protocol(), ": run the same release"));
    }
    const auto& uuid = device_->description().uuid;
    const std::string own(uuid.begin(), uuid.end());
    if (hello.device_uuid() != own) {
      return Refuse(worker, "the worker's GPU is another than the node's: read over gRPC or NCCL");
    }
    v1::DeviceIpcReply reply;
    v1::DeviceWelcome& welcome = *reply.mutable_welcome();
    welcome.set_protocol(kDeviceIpcProtocol);
    welcome.set_device_uuid(own);
    welcome.set_handle(handle_.bytes.data(), handle_.bytes.size());
    welcome.set_memory_bytes(handle_.size_bytes);
    worker.welcome = true;
    if (!worker.socket.Send(reply).ok()) worker.gone = true;
  }

  void Get(Worker& worker, const v1::DeviceGet& get) {
    const size_t keys = get.keys().size() / kKeyBytes;
    if (get.keys().size() % kKeyBytes != 0 || keys == 0 || keys > kMaxDeviceGetKeys) {
      return Refuse(worker, absl::StrCat("a get of ", get.keys().size(), " bytes of keys; allowed are 1 to ",
                                         kMaxDeviceGetKeys, " keys of 32 bytes"));
    }
    if (!worker.pins.MayUse(get.request())) return Refuse(worker, "numbers of requests only go up");
    v1::DeviceIpcReply reply;
    v1::DeviceGot& got = *reply.mutable_got();
    got.set_request(get.request());
    got.set_pinned_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(options_.pinned_for)));
    const SteadyClock::time_point until = SteadyClock::now() + absl::ToChronoNanoseconds(options_.pinned_for);
    for (size_t i = 0; i < keys; ++i) {
      Key key;
      std::copy_n(get.keys().begin() + static_cast<ptrdiff_t>(i * kKeyBytes), kKeyBytes, key.bytes.begin());
      Answer(worker, key, get.request(), static_cast<uint32_t>(i), until, *got.add_blocks());
    }
    if (!worker.socket.Send(reply).ok()) worker.gone = true;
  }

  void Answer(Worker& worker, const Key& key, uint64_t request, uint32_t place, SteadyClock::time_point until,
              v1::DeviceBlock& block) {
    absl::StatusOr<DeviceLookup> lookup = blocks_->GetOnDevice(key);
    // A device that has failed is the node's to drop; its blocks are there over gRPC, or are misses there.
    if (!lookup.ok() || (lookup->pin != nullptr && worker.pins.size() >= options_.max_pins)) {
      block.set_in_host_memory(true);
      return;
    }
    if (lookup->pin == nullptr) {
      block.set_in_host_memory(lookup->tier == Tier::kHost);
      block.set_miss(static_cast<uint32_t>(ToWire(lookup->miss)));
      return;
    }
    for (const DeviceExtent& extent : lookup->pin->extents()) {
      block.add_offsets(extent.address.value - memory_->base().value);
      block.add_sizes(extent.size_bytes);
    }
    worker.pins.Add(request, place, std::move(lookup->pin), until);
    blocks_given_.fetch_add(1, std::memory_order_relaxed);
  }

  const DeviceIpcOptions options_;
  Device* const device_;
  const DeviceMemory* const memory_;
  DeviceBlocks* const blocks_;
  const IpcHandle handle_;
  const int listener_, wake_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> workers_now_{0}, pins_now_{0}, blocks_given_{0}, expired_pins_{0}, refused_{0};
  // The thread's own.
  std::list<Worker> workers_;
  SteadyClock::time_point deaf_until_;
  bool more_ = false;  // a worker has had its turn and may have sent more

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceIpcServer>> DeviceIpcServer::Start(const DeviceIpcOptions& options, Device* device,
                                                                        const DeviceMemory* memory,
                                                                        DeviceBlocks* blocks) {
  if (options.pinned_for < absl::Milliseconds(1) || options.max_workers == 0 || options.max_pins == 0) {
    return absl::InvalidArgumentError(
        "device socket: pinned_for is at least 1 ms, max_workers and max_pins at least 1");
  }
  const absl::StatusOr<IpcHandle> handle = device->Export(*memory);
  if (!handle.ok()) return handle.status();
  const absl::StatusOr<int> listener = ListenUnix(options.path);
  if (!listener.ok()) return listener.status();
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    close(*listener);
    return absl::ResourceExhaustedError("device socket: no event descriptor");
  }
  return std::make_unique<Server>(options, device, memory, blocks, *handle, *listener, wake);
}

}  // namespace kvist
