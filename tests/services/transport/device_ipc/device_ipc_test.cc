// A worker reads blocks in a node's device memory, where they are; and whatever dies, stops or lies, no pin stays and no
// byte is trusted that was not held. Emulated device memory, a real Unix socket; real processes where one dies.
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvist/v1/device_ipc.pb.h"
#include "services/transport/device_ipc/device_ipc_client.h"
#include "services/transport/device_ipc/device_ipc_server.h"
#include "services/transport/device_ipc/message_socket.h"
#include "tests/device/emulated_device.h"

namespace kvist {
namespace {

using testing::EmulatedDevice;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr uint64_t kMemory = uint64_t{1} << 20;

Key KeyOf(uint64_t number) {
  Key key;
  for (size_t i = 0; i < 8; ++i) key.bytes[i] = uint8_t(number >> (8 * i));
  return key;
}

std::vector<uint8_t> BytesOf(uint64_t number, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = uint8_t(number * 31 + i);
  return bytes;
}

bool Comes(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + kLong;
  while (!condition()) {
    if (absl::Now() >= end) return false;
    std::this_thread::yield();
  }
  return true;
}

// Blocks at fixed places; counts its pins.
class FixedBlocks final : public DeviceBlocks {
 public:
  absl::StatusOr<DeviceLookup> GetOnDevice(const Key& key) override {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return failure_;
    DeviceLookup lookup;
    const auto found = blocks_.find(key.Prefix64());
    if (found == blocks_.end()) {
      lookup.miss = MissReason::kExpired;
    } else if (found->second.empty()) {
      lookup.tier = Tier::kHost;
    } else {
      lookup.tier = Tier::kDevice;
      lookup.pin = std::make_unique<Pin>(this, found->second);
      ++pins_;
    }
    return lookup;
  }
  void Add(const Key& key, std::vector<DeviceExtent> extents) { blocks_[key.Prefix64()] = std::move(extents); }
  void Fail(absl::Status why) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(why);
  }
  size_t pins() {
    const std::lock_guard lock(mutex_);
    return pins_;
  }

 private:
  class Pin final : public DevicePin {
   public:
    Pin(FixedBlocks* blocks, std::vector<DeviceExtent> extents) : blocks_(blocks), extents_(std::move(extents)) {}
    ~Pin() override {
      const std::lock_guard lock(blocks_->mutex_);
      --blocks_->pins_;
    }
    uint64_t size_bytes() const override {
      uint64_t size_bytes = 0;
      for (const DeviceExtent& extent : extents_) size_bytes += extent.size_bytes;
      return size_bytes;
    }
    absl::Span<const DeviceExtent> extents() const override { return extents_; }

   private:
    FixedBlocks* const blocks_;
    const std::vector<DeviceExtent> extents_;
  };

  std::mutex mutex_;
  absl::Status failure_;
  size_t pins_ = 0;
  std::map<uint64_t, std::vector<DeviceExtent>> blocks_;
};

class DeviceIpcTest : public ::testing::Test {
 protected:
  DeviceIpcTest() {
    // A folder of its own: a process id is no name where processes live in namespaces of their own.
    char folder[] = "/tmp/kvist-ipc-XXXXXX";
    EXPECT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    options_.path = folder_ + "/socket";
    memory_ = device_->Allocate(kMemory).value();
    // Block 1 in one piece, block 2 in two, block 3 in host memory only.
    Place(1, {{64, 1000}});
    Place(2, {{8192, 16384}, {65536, 100}});
    blocks_.Add(KeyOf(3), {});
  }

  ~DeviceIpcTest() override {
    server_ = nullptr;
    std::filesystem::remove_all(folder_);
  }

  void Place(uint64_t number, const std::vector<std::pair<uint64_t, uint64_t>>& extents) {
    std::vector<DeviceExtent> placed;
    uint64_t size_bytes = 0, at = 0;
    for (const auto& [offset, size] : extents) {
      placed.push_back({memory_->base() + offset, size});
      size_bytes += size;
    }
    const std::vector<uint8_t> bytes = BytesOf(number, size_bytes);
    for (const DeviceExtent& extent : placed) {
      device_->Write(extent.address, absl::MakeSpan(bytes).subspan(at, extent.size_bytes));
      at += extent.size_bytes;
    }
    blocks_.Add(KeyOf(number), placed);
  }
  void Start() { server_ = DeviceIpcServer::Start(options_, device_.get(), memory_.get(), &blocks_).value(); }
  std::unique_ptr<DeviceIpcClient> Connect() {
    return DeviceIpcClient::Connect(options_.path, worker_device_.get(), kLong).value();
  }
  // As a kernel of the worker would.
  std::vector<uint8_t> Read(const DeviceIpcBlock& block) {
    std::vector<uint8_t> bytes;
    for (const DeviceExtent& extent : block.extents()) {
      const std::vector<uint8_t> part = worker_device_->Read(extent.address, extent.size_bytes);
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    return bytes;
  }

  std::string folder_;
  DeviceIpcOptions options_;
  const std::unique_ptr<EmulatedDevice> device_ = EmulatedDevice::Create({});
  const std::unique_ptr<EmulatedDevice> worker_device_ =
      EmulatedDevice::Create({});  // the same GPU, as the worker has it
  std::unique_ptr<DeviceMemory> memory_;
  FixedBlocks blocks_;
  std::unique_ptr<DeviceIpcServer> server_;
};

TEST_F(DeviceIpcTest, AWorkerReadsBlocksWhereTheyAreAndLearnsWhatIsElsewhereOrMissing) {
  Start();
  const auto client = Connect();
  const auto lookups = client->Get({KeyOf(1), KeyOf(2), KeyOf(3), KeyOf(4)}, kLong).value();
  ASSERT_EQ(lookups.size(), 4u);
  ASSERT_NE(lookups[0].block, nullptr);
  ASSERT_NE(lookups[1].block, nullptr);
  EXPECT_EQ(Read(*lookups[0].block), BytesOf(1, 1000));
  EXPECT_EQ(lookups[1].block->extents().size(), 2u);
  EXPECT_EQ(Read(*lookups[1].block), BytesOf(2, 16484));
  EXPECT_TRUE(lookups[0].block->StillHeld().ok());
  EXPECT_TRUE(lookups[2].in_host_memory);
  EXPECT_EQ(lookups[3].miss, MissReason::kExpired);
  EXPECT_FALSE(lookups[3].in_host_memory);
}

TEST_F(DeviceIpcTest, APinEndsWithItsBlockAlsoWhenTheClientIsGoneFirst) {
  Start();
  auto client = Connect();
  auto lookups = client->Get({KeyOf(1), KeyOf(2)}, kLong).value();
  EXPECT_EQ(blocks_.pins(), 2u);
  lookups[0].block.reset();
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 1; }));
  client.reset();
  EXPECT_TRUE(lookups[1].block->StillHeld().ok());
  EXPECT_EQ(Read(*lookups[1].block), BytesOf(2, 16484));
  lookups.clear();
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 0 && server_->counters().workers == 0; }));
}

TEST_F(DeviceIpcTest, AReaderThatTakesTooLongIsToldAndItsPinIsTakenBack) {
  options_.pinned_for = absl::Milliseconds(20);
  Start();
  const auto client = Connect();
  const auto lookups = client->Get({KeyOf(1)}, kLong).value();
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 0 && server_->counters().expired_pins == 1; }));
  EXPECT_TRUE(absl::IsDeadlineExceeded(lookups[0].block->StillHeld())) << "whatever it decoded is not to be used";
  EXPECT_TRUE(client->Get({KeyOf(1)}, kLong).value()[0].block != nullptr) << "and it may ask again";
}

// A worker in a process of its own that holds block 1 until it is killed.
TEST_F(DeviceIpcTest, AWorkerThatIsKilledLeavesNoPin) {
  const pid_t child = fork();
  if (child == 0) {
    const auto device = EmulatedDevice::Create({});
    absl::StatusOr<std::unique_ptr<DeviceIpcClient>> client = absl::NotFoundError("");
    while (absl::IsNotFound(client.status())) client = DeviceIpcClient::Connect(options_.path, device.get(), kLong);
    const auto lookups = client.ok() ? (*client)->Get({KeyOf(1)}, kLong) : client.status();
    if (!lookups.ok()) _exit(1);
    for (;;) pause();
  }
  Start();
  ASSERT_TRUE(Comes([&] { return blocks_.pins() == 1; }));
  kill(child, SIGKILL);
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 0; }));
  waitpid(child, nullptr, 0);
}

TEST_F(DeviceIpcTest, AWorkerThatStopsLosesItsPinsAtTheirDeadlineAndTheOthersAreServedMeanwhile) {
  options_.pinned_for = absl::Milliseconds(50);
  const pid_t child = fork();
  if (child == 0) {
    const auto device = EmulatedDevice::Create({});
    absl::StatusOr<std::unique_ptr<DeviceIpcClient>> client = absl::NotFoundError("");
    while (absl::IsNotFound(client.status())) client = DeviceIpcClient::Connect(options_.path, device.get(), kLong);
    const auto lookups = client.ok() ? (*client)->Get({KeyOf(1)}, kLong) : client.status();
    raise(SIGSTOP);
    _exit(0);
  }
  Start();
  ASSERT_TRUE(Comes([&] { return server_->counters().blocks == 1; }));
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 0; }));
  const auto client = Connect();
  EXPECT_NE(client->Get({KeyOf(2)}, kLong).value()[0].block, nullptr);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_F(DeviceIpcTest, AfterTheNodeHasGoneNothingThatWasReadIsTrusted) {
  Start();
  const auto client = Connect();
  const auto lookups = client->Get({KeyOf(1)}, kLong).value();
  server_.reset();
  EXPECT_EQ(blocks_.pins(), 0u);
  EXPECT_TRUE(absl::IsUnavailable(lookups[0].block->StillHeld()));
  EXPECT_TRUE(absl::IsUnavailable(client->Get({KeyOf(1)}, kLong).status()));
  EXPECT_TRUE(absl::IsNotFound(DeviceIpcClient::Connect(options_.path, worker_device_.get(), kLong).status()));
  Start();
  EXPECT_NE(Connect()->Get({KeyOf(1)}, kLong).value()[0].block, nullptr) << "a new client finds the new node";
}

TEST_F(DeviceIpcTest, AnotherGpuIsRefusedWithASentence) {
  Start();
  const auto other = EmulatedDevice::Create({.ordinal = 1});
  const absl::Status status = DeviceIpcClient::Connect(options_.path, other.get(), kLong).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(status.message(), HasSubstr("another than the node's"));
  EXPECT_TRUE(Comes([&] { return server_->counters().refused == 1; }));
}

TEST_F(DeviceIpcTest, AMigSliceSharesNothing) {
  const auto slice = EmulatedDevice::Create({.mig = true});
  const auto memory = slice->Allocate(kMemory).value();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(DeviceIpcServer::Start(options_, slice.get(), memory.get(), &blocks_).status()));
  EXPECT_FALSE(std::filesystem::exists(options_.path));
}

TEST_F(DeviceIpcTest, OneWorkerTooManyIsRefusedAndTheOthersGoOn) {
  options_.max_workers = 1;
  Start();
  const auto client = Connect();
  EXPECT_THAT(DeviceIpcClient::Connect(options_.path, worker_device_.get(), kLong).status().message(),
              HasSubstr("serves 1 workers"));
  EXPECT_NE(client->Get({KeyOf(1)}, kLong).value()[0].block, nullptr);
}

TEST_F(DeviceIpcTest, BlocksBeyondTheMostPinsAreToBeReadElsewhere) {
  options_.max_pins = 1;
  Start();
  const auto client = Connect();
  const auto lookups = client->Get({KeyOf(1), KeyOf(2)}, kLong).value();
  EXPECT_NE(lookups[0].block, nullptr);
  EXPECT_EQ(lookups[1].block, nullptr);
  EXPECT_TRUE(lookups[1].in_host_memory);
}

TEST_F(DeviceIpcTest, ADeviceThatHasFailedSendsReadersToHostMemory) {
  Start();
  const auto client = Connect();
  blocks_.Fail(absl::UnavailableError("poisoned"));
  const auto lookups = client->Get({KeyOf(1)}, kLong).value();
  EXPECT_EQ(lookups[0].block, nullptr);
  EXPECT_TRUE(lookups[0].in_host_memory);
}

TEST_F(DeviceIpcTest, TheSocketOfADeadNodeIsReplacedAndThatOfALivingOneIsNot) {
  close(ListenUnix(options_.path).value());  // the file stays
  Start();
  EXPECT_NE(Connect(), nullptr);
  EXPECT_TRUE(absl::IsAlreadyExists(DeviceIpcServer::Start(options_, device_.get(), memory_.get(), &blocks_).status()));
  EXPECT_NE(Connect(), nullptr) << "the refused one took nothing with it";
}

TEST_F(DeviceIpcTest, APathThatIsNoSocketOrTooLongIsNamed) {
  const auto start = [&](const std::string& path) {
    DeviceIpcOptions options;
    options.path = path;
    return DeviceIpcServer::Start(options, device_.get(), memory_.get(), &blocks_).status();
  };
  EXPECT_THAT(start("/proc/self/status").message(), HasSubstr("is no socket"));
  EXPECT_THAT(start(std::string(200, 'x')).message(), HasSubstr("200 bytes"));
  EXPECT_THAT(start("").message(), HasSubstr("0 bytes"));
}

TEST_F(DeviceIpcTest, ManyKeysAtOnceAreAnsweredAndTooManyAreNot) {
  Start();
  const auto client = Connect();
  const std::vector<Key> most(kMaxDeviceGetKeys, KeyOf(1));
  EXPECT_EQ(client->Get(most, kLong).value().size(), most.size());
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 0; }));
  EXPECT_TRUE(absl::IsInvalidArgument(client->Get({}, kLong).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->Get(std::vector<Key>(kMaxDeviceGetKeys + 1), kLong).status()));
}

// --- Ends that lie, by hand ---

v1::DeviceIpcReply Ask(MessageSocket& socket, const v1::DeviceIpcRequest& request) {
  EXPECT_TRUE(socket.Send(request).ok());
  v1::DeviceIpcReply reply;
  const absl::StatusOr<std::string> bytes = socket.Await(kLong);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_TRUE(bytes.ok() && reply.ParseFromString(*bytes));
  return reply;
}

TEST_F(DeviceIpcTest, AWorkerOfAnotherReleaseOrWithoutAHelloIsToldWhatIsWrong) {
  Start();
  const auto refusal = [&](const v1::DeviceIpcRequest& request) {
    MessageSocket socket(ConnectUnix(options_.path).value(), 1 << 20);
    return Ask(socket, request).refusal();
  };
  v1::DeviceIpcRequest later;
  later.mutable_hello()->set_protocol(kDeviceIpcProtocol + 1);
  EXPECT_THAT(refusal(later), HasSubstr("protocol 1, the worker 2"));
  v1::DeviceIpcRequest get;
  get.mutable_get()->set_request(1);
  EXPECT_THAT(refusal(get), HasSubstr("a hello comes first"));
}

// It once asked the kernel again and again, without a pause, for a connection that it had no descriptor for.
TEST_F(DeviceIpcTest, ANodeOutOfDescriptorsServesWhoWaitedWhenItHasSomeAgain) {
  Start();
  const auto former = Connect();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{128, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<int> taken;
  for (int fd = 0; (fd = dup(0)) >= 0;) taken.push_back(fd);
  ASSERT_FALSE(taken.empty());
  close(taken.back());
  taken.pop_back();
  MessageSocket waiting(ConnectUnix(options_.path).value(), 1 << 20);
  EXPECT_NE(former->Get({KeyOf(1)}, kLong).value()[0].block, nullptr) << "others are served meanwhile";
  EXPECT_EQ(server_->counters().workers, 1u);
  for (const int fd : taken) close(fd);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  v1::DeviceIpcRequest hello;
  hello.mutable_hello()->set_protocol(kDeviceIpcProtocol);
  const auto& uuid = worker_device_->description().uuid;
  hello.mutable_hello()->set_device_uuid(std::string(uuid.begin(), uuid.end()));
  EXPECT_TRUE(Ask(waiting, hello).has_welcome());
}

TEST_F(DeviceIpcTest, AHostileWorkerGetsASentenceAndNoPin) {
  Start();
  v1::DeviceIpcRequest hello;
  hello.mutable_hello()->set_protocol(kDeviceIpcProtocol);
  hello.mutable_hello()->set_device_uuid(
      std::string(device_->description().uuid.begin(), device_->description().uuid.end()));
  const auto after_hello = [&](const v1::DeviceIpcRequest& request) {
    MessageSocket socket(ConnectUnix(options_.path).value(), 1 << 20);
    EXPECT_TRUE(Ask(socket, hello).has_welcome());
    return Ask(socket, request).refusal();
  };
  EXPECT_THAT(after_hello(hello), HasSubstr("second hello"));
  v1::DeviceIpcRequest odd;
  odd.mutable_get()->set_keys("short");
  EXPECT_THAT(after_hello(odd), HasSubstr("5 bytes of keys"));

  MessageSocket twice(ConnectUnix(options_.path).value(), 1 << 20);
  EXPECT_TRUE(Ask(twice, hello).has_welcome());
  v1::DeviceIpcRequest get;
  get.mutable_get()->set_request(7);
  const Key key = KeyOf(1);
  get.mutable_get()->set_keys(std::string(key.bytes.begin(), key.bytes.end()));
  EXPECT_TRUE(Ask(twice, get).has_got());
  EXPECT_THAT(Ask(twice, get).refusal(), HasSubstr("only go up"));
  EXPECT_TRUE(Comes([&] { return blocks_.pins() == 0; }));

  MessageSocket garbage(ConnectUnix(options_.path).value(), 1 << 20);
  ASSERT_EQ(send(garbage.fd(), "\xff\xff\xff\xff garbage", 12, 0), 12);
  EXPECT_TRUE(absl::IsUnavailable(garbage.Await(kLong).status())) << "4 GiB are announced: closed";
  EXPECT_NE(Connect()->Get({KeyOf(1)}, kLong).value()[0].block, nullptr);
}

// A node of the test's own: answers each request with the next of `replies`, then stays silent.
class LyingNode {
 public:
  LyingNode(const std::string& path, std::vector<v1::DeviceIpcReply> replies)
      : listener_(ListenUnix(path).value()), thread_([this, replies = std::move(replies)] {
          int fd = -1;
          while (fd < 0 && !stopping_) fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK);
          if (fd < 0) return;
          MessageSocket socket(fd, 1 << 20);
          for (const v1::DeviceIpcReply& reply : replies) {
            if (!socket.Await(kLong).ok()) return;
            socket.Send(reply).IgnoreError();
          }
          while (!stopping_) std::this_thread::yield();
        }) {}
  ~LyingNode() {
    stopping_ = true;
    thread_.join();
    close(listener_);
  }

 private:
  const int listener_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

TEST_F(DeviceIpcTest, ExtentsOutsideTheMemoryAreNoBlock) {
  v1::DeviceIpcReply welcome, got;
  const IpcHandle handle = device_->Export(*memory_).value();
  const auto& uuid = device_->description().uuid;
  welcome.mutable_welcome()->set_protocol(kDeviceIpcProtocol);
  welcome.mutable_welcome()->set_device_uuid(std::string(uuid.begin(), uuid.end()));
  welcome.mutable_welcome()->set_handle(std::string(handle.bytes.begin(), handle.bytes.end()));
  welcome.mutable_welcome()->set_memory_bytes(kMemory);
  got.mutable_got()->set_request(1);
  got.mutable_got()->set_pinned_ms(60'000);
  const auto add = [&](uint64_t offset, uint64_t size) {
    v1::DeviceBlock& block = *got.mutable_got()->add_blocks();
    block.add_offsets(offset);
    if (size != 0) block.add_sizes(size);
  };
  add(kMemory, 64);            // behind the end
  add(kMemory - 64, 65);       // across it
  add(64, ~uint64_t{0} - 63);  // around the world
  add(1, 64);                  // not aligned
  add(64, 0);                  // without a size
  add(64, 64);                 // and one as it should be
  const LyingNode node(options_.path, {welcome, got});
  const auto client = Connect();
  const auto lookups = client->Get(std::vector<Key>(6), kLong).value();
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(lookups[i].block, nullptr) << i;
    EXPECT_EQ(lookups[i].miss, MissReason::kDamaged) << i;
  }
  EXPECT_NE(lookups[5].block, nullptr);
}

TEST_F(DeviceIpcTest, ANodeThatSaysNothingCostsTheDeadline) {
  const LyingNode node(options_.path, {});
  const absl::Status status =
      DeviceIpcClient::Connect(options_.path, worker_device_.get(), absl::Milliseconds(20)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

}  // namespace
}  // namespace kvist
