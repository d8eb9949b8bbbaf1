// Goal: whichever way a block takes into pages on the GPU, the pages hold what the reference decodes from the stored
// bytes; and a node without the way, without the block or without its wits costs time or a miss, never a wrong value.
// Method: nodes with device tiers, a socket for CUDA IPC and a shim of libnccl in this process; kernels run on the
// emulated grid over emulated device memory, which the host cannot touch.
#include "services/worker/device_reader.h"

#include <thread>

#include "tests/services/worker/device_fixture.h"

namespace kvist::testing {
namespace {

using ::testing::HasSubstr;

class EveryCodec : public DeviceReaderTest, public ::testing::WithParamInterface<Codec> {
 protected:
  EveryCodec() { options_.codec = GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Codecs, EveryCodec, ::testing::Values(Codec::kI8, Codec::kLadder, Codec::kRaw16),
                         [](const auto& info) { return std::string(CodecName(info.param)); });

TEST_P(EveryCodec, BlocksOnOurOwnGpuAreDecodedFromWhereTheyAre) {
  Start({Reach::kIpc});
  Promote();
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.ipc_blocks, kPromptBlocks);
  EXPECT_EQ(got.fetched_bytes, 0u);
  EXPECT_EQ(got.plain_bytes, shape().PlainBytes() * kPromptBlocks);
  EXPECT_EQ(reader_->counters().ipc_blocks, kPromptBlocks);
  EXPECT_EQ(client_->counters().fetched_blocks, kPromptBlocks);
}

TEST_P(EveryCodec, BlocksOnAnotherGpuComeOverNcclOnceItIsOpen) {
  Start({Reach::kNccl});
  Promote();
  const DeviceGetResult first = Get();
  EXPECT_EQ(first.blocks, kPromptBlocks) << first.why;
  EXPECT_EQ(first.grpc_blocks, kPromptBlocks) << "nobody waits for an epoch to open";
  ASSERT_TRUE(OpensNccl());
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.nccl_blocks, kPromptBlocks);
}

TEST_P(EveryCodec, BlocksOfANodeWithoutADeviceComeOverGrpc) {
  Start({Reach::kHostOnly, Reach::kHostOnly});
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.grpc_blocks, kPromptBlocks);
  uint64_t stored_bytes = 0;
  for (const std::vector<uint8_t>& bytes : stored_) stored_bytes += bytes.size();
  EXPECT_EQ(got.fetched_bytes, stored_bytes);
}

TEST_F(DeviceReaderTest, BlocksOfACodecWithoutAKernelAreAMissThatSaysSoAndTheHostReadsThem) {
  options_.codec = Codec::kX16;
  for (const Reach reach : {Reach::kIpc, Reach::kHostOnly}) {
    Start({reach});
    Promote();
    const int before = decoder_.launches;
    const DeviceGetResult got = Get();
    ExpectMiss(got, 0, v1::MISS_REASON_IDENTITY_MISMATCH);
    EXPECT_THAT(got.why, HasSubstr("no kernel decodes x16; the host does"));
    EXPECT_EQ(decoder_.launches, before) << "nothing of it reaches the device";
    std::vector<uint16_t> values(shape().Elements() * kPromptBlocks);
    const auto on_host = client_->Get(chain_, {0, kPromptBlocks},
                                      ContiguousPages(values.data(), shape(), kPromptBlocks * shape().tokens));
    ASSERT_TRUE(on_host.ok()) << on_host.status();
    EXPECT_EQ(on_host->blocks, kPromptBlocks) << on_host->why;
    reader_ = nullptr;
  }
}

TEST_F(DeviceReaderTest, OneGetTakesEveryWayAtOnce) {
  Start({Reach::kIpc, Reach::kNccl, Reach::kHostOnly});
  Promote();
  ASSERT_TRUE(OpensNccl());
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_GT(got.ipc_blocks, 0u);
  EXPECT_GT(got.nccl_blocks, 0u);
  EXPECT_GT(got.grpc_blocks, 0u);
  EXPECT_EQ(got.ipc_blocks + got.nccl_blocks + got.grpc_blocks, kPromptBlocks);
}

TEST_F(DeviceReaderTest, ANodeIsAskedForItsDeviceOnceInItsLife) {
  Start({Reach::kIpc, Reach::kHostOnly});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get().blocks, kPromptBlocks);
  EXPECT_EQ(cluster_->node(0).infos_asked, 1);
  EXPECT_EQ(cluster_->node(1).infos_asked, 1);
}

TEST_F(DeviceReaderTest, WhatIsOnlyInHostMemoryComesOverGrpcBesideWhatIsOnTheDevice) {
  Start({Reach::kIpc});
  for (size_t block = 0; block < kPromptBlocks; block += 2) OwnerOf(block).Promote(chain_[block]);
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.ipc_blocks, kPromptBlocks / 2);
  EXPECT_EQ(got.grpc_blocks, kPromptBlocks / 2);
}

TEST_F(DeviceReaderTest, ARangeInTheMiddleOfAPromptLandsInItsOwnPages) {
  Start({Reach::kIpc, Reach::kHostOnly});
  Promote();
  EXPECT_EQ(Get({3, 9}).blocks, 6u);
  EXPECT_EQ(Get({5, 5}).blocks, 0u);
}

TEST_F(DeviceReaderTest, ConcurrentGetsShareTheRoomOnTheDeviceAndKeepTheirBytesApart) {
  reader_options_.gets = 2;
  Start({Reach::kIpc, Reach::kNccl, Reach::kHostOnly});
  Promote();
  ASSERT_TRUE(OpensNccl());
  std::vector<std::thread> threads;
  for (int i = 0; i < 5; ++i) {
    threads.emplace_back([&] {
      DeviceTensors tensors(worker_->device.get(), shape(), shape().heads, /*first_head=*/0);
      for (size_t first = 0; first < 4; ++first) {
        const auto got = reader_->Get(chain_, {first, kPromptBlocks}, tensors.pages());
        ASSERT_TRUE(got.ok()) << got.status();
        EXPECT_EQ(got->blocks, kPromptBlocks - first) << got->why;
      }
      EXPECT_EQ(tensors.Different({0, kPromptBlocks}, kPromptBlocks, stored_), 0u);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceReaderTest, APromptLargerThanTheLandingComesInWindows) {
  options_.codec = Codec::kRaw16;
  reader_options_.landing_bytes = 48 << 10;
  for (const Reach reach : {Reach::kHostOnly, Reach::kNccl}) {
    Start({reach});
    Promote();
    if (reach == Reach::kNccl) {
      ASSERT_TRUE(OpensNccl());
    }
    const int before = decoder_.launches;
    EXPECT_EQ(Get().blocks, kPromptBlocks);
    EXPECT_GE(decoder_.launches - before, static_cast<int>(kPromptBlocks) / 2);
    reader_ = nullptr;
  }
}

TEST_F(DeviceReaderTest, TablesLargerThanTheScratchGoInSeveralLaunches) {
  options_.codec = Codec::kRaw16;
  reader_options_.scratch_bytes = 20 << 10;
  Start({Reach::kIpc});
  Promote();
  EXPECT_EQ(Get().blocks, kPromptBlocks);
  EXPECT_GT(decoder_.launches, 1);
}

TEST_F(DeviceReaderTest, AMissOfANodesDeviceIsTheNodesReason) {
  Start({Reach::kIpc});
  Promote();
  ASSERT_TRUE(*cluster_->node(0).store->Erase(chain_[7]));
  const DeviceGetResult got = Get();
  ExpectMiss(got, 7, v1::MISS_REASON_ERASED);
  EXPECT_EQ(got.miss_node, "n0");
  EXPECT_EQ(reader_->counters().misses, 1u);
  EXPECT_EQ(client_->counters().misses[v1::MISS_REASON_ERASED], 1u);
}

// Blocks in three pieces each, the later ones at lower addresses.
class ScatteredBlocks final : public DeviceBlocks {
 public:
  explicit ScatteredBlocks(EmulatedDevice* device)
      : device_(device), memory_(*device->Allocate(uint64_t{1} << 20)), free_(memory_->size_bytes()) {}
  void Add(const Key& key, absl::Span<const uint8_t> bytes) {
    const size_t piece = bytes.size() / 3 / 64 * 64;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = blocks_[key].size() < 2 ? piece : bytes.size() - at;
      free_ = (free_ - size) / 64 * 64;
      device_->Write(memory_->base() + free_, bytes.subspan(at, size));
      blocks_[key].push_back({memory_->base() + free_, size});
      at += size;
    }
  }
  absl::StatusOr<DeviceLookup> GetOnDevice(const Key& key) override {
    DeviceLookup lookup;
    lookup.tier = Tier::kDevice;
    lookup.pin = std::make_unique<Pin>(blocks_.at(key));
    return lookup;
  }
  const DeviceMemory& memory() const { return *memory_; }

 private:
  class Pin final : public DevicePin {
   public:
    explicit Pin(const std::vector<DeviceExtent>& extents) : extents_(extents) {}
    uint64_t size_bytes() const override { return TotalBytes(extents_); }
    absl::Span<const DeviceExtent> extents() const override { return extents_; }

   private:
    const std::vector<DeviceExtent> extents_;
  };
  EmulatedDevice* const device_;
  const std::unique_ptr<DeviceMemory> memory_;
  uint64_t free_;
  std::map<Key, std::vector<DeviceExtent>> blocks_;
};

TEST_F(DeviceReaderTest, ABlockInSeveralPiecesIsGatheredFirst) {
  Start({Reach::kIpc});
  ScatteredBlocks scattered(cluster_->node(0).end.device.get());
  for (size_t block = 0; block < kPromptBlocks; ++block) scattered.Add(chain_[block], stored_[block]);
  cluster_->node(0).StartIpc(kTestDeadline, &scattered, &scattered.memory());
  const DeviceGetResult got = Get();
  EXPECT_EQ(got.blocks, kPromptBlocks) << got.why;
  EXPECT_EQ(got.ipc_blocks, kPromptBlocks);
  reader_ = nullptr;
  cluster_->node(0).StopIpc();
}

TEST_F(DeviceReaderTest, ADamagedBlockIsAChecksumMissThatTheNodeHearsOf) {
  Start({Reach::kIpc});
  Promote();
  DeviceNode& node = cluster_->node(0);
  const DeviceExtent damaged = node.OnDevice(chain_[6]);
  std::vector<uint8_t> byte = node.end.device->Read(damaged.address + (stored_[6].size() - 100), 1);
  byte[0] ^= 1;
  node.end.device->Write(damaged.address + (stored_[6].size() - 100), byte);
  ExpectMiss(Get(), 6, v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(client_->counters().damaged, 1u);
  EXPECT_EQ(Get({7, kPromptBlocks}).blocks, kPromptBlocks - 7);
}

TEST_F(DeviceReaderTest, ADamagedHeaderIsAChecksumMissToo) {
  Start({Reach::kIpc});
  Promote();
  DeviceNode& node = cluster_->node(0);
  node.end.device->Write(node.OnDevice(chain_[6]).address + 40, {1, 2, 3, 4});
  ExpectMiss(Get(), 6, v1::MISS_REASON_CHECKSUM);
  EXPECT_EQ(client_->counters().damaged, 1u);
}

TEST_F(DeviceReaderTest, AnotherBlockInItsPlaceIsAnIdentityMismatch) {
  Start({Reach::kIpc});
  ScatteredBlocks wrong(cluster_->node(0).end.device.get());
  for (size_t block = 0; block < kPromptBlocks; ++block) wrong.Add(chain_[block], stored_[block == 4 ? 5 : block]);
  cluster_->node(0).StartIpc(kTestDeadline, &wrong, &wrong.memory());
  ExpectMiss(Get(), 4, v1::MISS_REASON_IDENTITY_MISMATCH);
  reader_ = nullptr;
  cluster_->node(0).StopIpc();
}

TEST_F(DeviceReaderTest, ABlockOfLessPrecisionThanAskedForIsAMiss) {
  options_.min_precision = 9;
  Start({Reach::kIpc});
  Promote();
  ExpectMiss(Get(), 0, v1::MISS_REASON_PRECISION);
}

TEST_F(DeviceReaderTest, ABlockThatCannotBeKeptRotatedIsAPrecisionMiss) {
  Start({Reach::kIpc});
  Promote();
  DevicePages pages = tensors_->pages();
  pages.basis = Basis::kKeptRotated;
  const auto got = reader_->Get(chain_, {0, kPromptBlocks}, pages);
  ASSERT_TRUE(got.ok()) << got.status();
  ExpectMiss(*got, 0, v1::MISS_REASON_PRECISION);
}

TEST_F(DeviceReaderTest, PagesThatNoKernelServesAreRefusedBeforeAnyNodeIsAsked) {
  Start({Reach::kIpc});
  DevicePages pages = tensors_->pages();
  pages.layout.head_dim = 128;
  EXPECT_EQ(reader_->Get(chain_, {0, 1}, pages).status().code(), absl::StatusCode::kInvalidArgument);
  pages = tensors_->pages();
  pages.block_table = pages.block_table.first(3);
  EXPECT_THAT(std::string(reader_->Get(chain_, {0, 5}, pages).status().message()),
              HasSubstr("block table of 3 pages; 80 tokens need 5"));
  pages = tensors_->pages();
  pages.layout.pages = 2;
  EXPECT_THAT(std::string(reader_->Get(chain_, {0, 20}, pages).status().message()), HasSubstr("there are 2"));
  pages = tensors_->pages();
  pages.first_head = 1;
  EXPECT_THAT(std::string(reader_->Get(chain_, {0, 1}, pages).status().message()), HasSubstr("heads [1, 3)"));
  EXPECT_EQ(reader_->Get(chain_, {0, kPromptBlocks + 1}, tensors_->pages()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(reader_->Take(chain_, {0, 1}, tensors_->pages(), nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster_->node(0).infos_asked, 0);
}

TEST_F(DeviceReaderTest, EveryOptionThatIsWrongIsNamed) {
  Start({Reach::kHostOnly});
  DeviceReaderOptions options;
  options.gets = 0;
  options.landing_bytes = 1000;
  options.scratch_bytes = options.pinned_bytes = options.staging_bytes = 1;
  const std::string wrong(DeviceReader::Create(client_.get(), options).status().message());
  for (const char* name :
       {"device is", "decoder", "gets 0", "landing_bytes", "scratch_bytes", "pinned_bytes", "staging_bytes"}) {
    EXPECT_THAT(wrong, HasSubstr(name));
  }
}

}  // namespace
}  // namespace kvist::testing
