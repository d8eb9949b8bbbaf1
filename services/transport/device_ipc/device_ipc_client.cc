#include "services/transport/device_ipc/device_ipc_client.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "kvist/v1/device_ipc.pb.h"
#include "services/transport/device_ipc/device_ipc_server.h"
#include "services/transport/device_ipc/message_socket.h"
#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr size_t kLongestReply = size_t{8} << 20;
constexpr uint64_t kExtentAlignment = 64;

// The socket and the mapped memory: what blocks need beyond the life of the client.
class Connection {
 public:
  Connection(int fd, Device* device) : device_(device), socket_(fd, kLongestReply) {}

  absl::Status Greet(absl::Duration deadline) {
    const std::lock_guard lock(mutex_);
    v1::DeviceIpcRequest request;
    v1::DeviceHello& hello = *request.mutable_hello();
    hello.set_protocol(kDeviceIpcProtocol);
    const auto& uuid = device_->description().uuid;
    hello.set_device_uuid(std::string(uuid.begin(), uuid.end()));
    socket_.Send(request).IgnoreError();  // a node that refuses at once may be gone, and its sentence is there
    const absl::StatusOr<v1::DeviceIpcReply> reply = Reply(deadline);
    if (!reply.ok()) return reply.status();
    const v1::DeviceWelcome& welcome = reply->welcome();
    IpcHandle handle;
    if (!reply->has_welcome() || welcome.protocol() != kDeviceIpcProtocol ||
        welcome.handle().size() != handle.bytes.size() || welcome.device_uuid() != hello.device_uuid()) {
      return absl::FailedPreconditionError("the node's welcome on the device socket is none of this release and GPU");
    }
    std::copy(welcome.handle().begin(), welcome.handle().end(), handle.bytes.begin());
    handle.size_bytes = welcome.memory_bytes();
    absl::StatusOr<std::unique_ptr<DeviceMemory>> memory = device_->Import(handle);
    if (!memory.ok()) return memory.status();
    memory_ = *std::move(memory);
    return absl::OkStatus();
  }

  absl::StatusOr<v1::DeviceGot> Get(absl::Span<const Key> keys, absl::Duration deadline) {
    absl::StatusOr<v1::DeviceGot> got = Ask(keys, deadline);
    SendUnpins();  // those that came meanwhile
    return got;
  }

  // Never waits for a request of another thread: whoever has the socket sends it.
  void Unpin(uint64_t request, uint32_t place) {
    {
      const std::lock_guard lock(unpins_mutex_);
      unpins_.emplace_back(request, place);
    }
    SendUnpins();
  }

  bool alive() const { return !socket_.closed_by_peer(); }
  const DeviceMemory& memory() const { return *memory_; }

 private:
  absl::StatusOr<v1::DeviceGot> Ask(absl::Span<const Key> keys, absl::Duration deadline) {
    const std::lock_guard lock(mutex_);
    if (broken_) return absl::UnavailableError("the device socket was given up: make another client");
    v1::DeviceIpcRequest request;
    v1::DeviceGet& get = *request.mutable_get();
    get.set_request(++last_request_);
    for (const Key& key : keys) get.mutable_keys()->append(key.bytes.begin(), key.bytes.end());
    if (absl::Status sent = socket_.Send(request); absl::IsResourceExhausted(sent)) return GiveUp(sent);
    const SteadyClock::time_point end = SteadyClock::now() + absl::ToChronoNanoseconds(deadline);
    for (;;) {
      absl::StatusOr<v1::DeviceIpcReply> reply = Reply(absl::FromChrono(end - SteadyClock::now()));
      if (absl::IsDeadlineExceeded(reply.status())) {
        SendUnpin(last_request_, std::nullopt);  // the answer may still come: nobody will hold what it pins
        return reply.status();
      }
      if (!reply.ok()) return GiveUp(reply.status());
      if (reply->got().request() < last_request_) continue;  // of a request that was given up
      if (reply->got().request() != last_request_ || reply->got().blocks().size() != static_cast<int>(keys.size())) {
        return GiveUp(absl::UnavailableError("the node's answer on the device socket is to another request"));
      }
      return std::move(*reply->mutable_got());
    }
  }

  absl::StatusOr<v1::DeviceIpcReply> Reply(absl::Duration deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::StatusOr<std::string> bytes = socket_.Await(deadline);
    if (!bytes.ok()) return bytes.status();
    v1::DeviceIpcReply reply;
    if (!reply.ParseFromString(*bytes)) return absl::UnavailableError("the node's answer on the device socket is none");
    if (!reply.refusal().empty()) return absl::FailedPreconditionError(reply.refusal());
    return reply;
  }

  absl::Status GiveUp(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    broken_ = true;
    return why;
  }

  // Whoever has the socket looks again after giving it back, so that none is left by one who could not have it.
  void SendUnpins() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    while (AnyUnpins()) {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (!lock.owns_lock()) return;
      for (const auto& [request, place] : TakeUnpins()) SendUnpin(request, place);
    }
  }

  bool AnyUnpins() const {
    const std::lock_guard lock(unpins_mutex_);
    return !unpins_.empty();
  }
  std::vector<std::pair<uint64_t, uint32_t>> TakeUnpins() {
    const std::lock_guard lock(unpins_mutex_);
    return std::exchange(unpins_, {});
  }

  // Of one place, or of the whole request.
  void SendUnpin(uint64_t request, std::optional<uint32_t> place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (broken_) return;
    v1::DeviceIpcRequest message;
    message.mutable_unpin()->set_request(request);
    if (place) message.mutable_unpin()->add_blocks(*place);
    if (!socket_.Send(message).ok()) broken_ = true;
  }

  Device* const device_;
  std::unique_ptr<DeviceMemory> memory_;  // constant after Greet
  mutable std::mutex mutex_;
  MessageSocket socket_;  // under mutex_, but for closed_by_peer
  uint64_t last_request_ ABSL_GUARDED_BY(mutex_) = 0;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  mutable std::mutex unpins_mutex_;  // alone, or inside mutex_
  std::vector<std::pair<uint64_t, uint32_t>> unpins_ ABSL_GUARDED_BY(unpins_mutex_);
};

class IpcBlock final : public DeviceIpcBlock {
 public:
  IpcBlock(std::shared_ptr<Connection> connection, uint64_t request, uint32_t place, SteadyClock::time_point until,
           std::vector<DeviceExtent> extents)
      : connection_(std::move(connection)),
        request_(request),
        place_(place),
        until_(until),
        extents_(std::move(extents)) {
    for (const DeviceExtent& extent : extents_) size_bytes_ += extent.size_bytes;
  }
  ~IpcBlock() override { connection_->Unpin(request_, place_); }
  uint64_t size_bytes() const override { return size_bytes_; }
  absl::Span<const DeviceExtent> extents() const override { return extents_; }
  absl::Status StillHeld() const override {
    if (!connection_->alive()) return absl::UnavailableError("the node went while its block was read");
    if (SteadyClock::now() < until_) return absl::OkStatus();
    return absl::DeadlineExceededError("the block was read for longer than it was pinned");
  }

 private:
  const std::shared_ptr<Connection> connection_;
  const uint64_t request_;
  const uint32_t place_;
  const SteadyClock::time_point until_;
  const std::vector<DeviceExtent> extents_;
  uint64_t size_bytes_ = 0;
};

// The extents of one answer as addresses here; empty if they are not all inside the memory.
std::vector<DeviceExtent> Located(const v1::DeviceBlock& block, const DeviceMemory& memory) {
  std::vector<DeviceExtent> extents;
  if (block.offsets_size() != block.sizes_size()) return extents;
  for (int i = 0; i < block.offsets_size(); ++i) {
    const uint64_t offset = block.offsets(i), size_bytes = block.sizes(i);
    const bool inside = size_bytes != 0 && offset % kExtentAlignment == 0 && offset < memory.size_bytes() &&
                        size_bytes <= memory.size_bytes() - offset;
    if (!inside) return {};
    extents.push_back({memory.base() + offset, size_bytes});
  }
  return extents;
}

class Client final : public DeviceIpcClient {
 public:
  explicit Client(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}

  absl::StatusOr<std::vector<DeviceIpcLookup>> Get(absl::Span<const Key> keys, absl::Duration deadline) override {
    if (keys.empty() || keys.size() > kMaxDeviceGetKeys) {
      return absl::InvalidArgumentError(
          absl::StrCat("a get of ", keys.size(), " keys; allowed are 1 to ", kMaxDeviceGetKeys));
    }
    // From before the question: the node counts from a later moment, so its pin outlives what we think.
    const SteadyClock::time_point asked = SteadyClock::now();
    const absl::StatusOr<v1::DeviceGot> got = connection_->Get(keys, deadline);
    if (!got.ok()) return got.status();
    const SteadyClock::time_point until = asked + std::chrono::milliseconds(got->pinned_ms());
    std::vector<DeviceIpcLookup> lookups(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      const v1::DeviceBlock& block = got->blocks(static_cast<int>(i));
      lookups[i].in_host_memory = block.in_host_memory();
      if (block.offsets().empty()) {
        if (!block.in_host_memory()) lookups[i].miss = FromWire(static_cast<v1::MissReason>(block.miss()));
        continue;
      }
      std::vector<DeviceExtent> extents = Located(block, connection_->memory());
      if (extents.empty()) {
        lookups[i].miss = MissReason::kDamaged;  // the answer is; whatever it names is no block
        connection_->Unpin(got->request(), static_cast<uint32_t>(i));
        continue;
      }
      lookups[i].block =
          std::make_unique<IpcBlock>(connection_, got->request(), static_cast<uint32_t>(i), until, std::move(extents));
    }
    return lookups;
  }

 private:
  const std::shared_ptr<Connection> connection_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceIpcClient>> DeviceIpcClient::Connect(const std::string& path, Device* device,
                                                                          absl::Duration deadline) {
  const absl::StatusOr<int> fd = ConnectUnix(path);
  if (!fd.ok()) return fd.status();
  auto connection = std::make_shared<Connection>(*fd, device);
  if (absl::Status greeted = connection->Greet(deadline); !greeted.ok()) return greeted;
  return std::make_unique<Client>(std::move(connection));
}

}  // namespace kvist
