// A worker with an emulated GPU over such nodes: one prompt of random values, put by the client and read into pages in
// device memory, which are compared bit by bit with what the reference decodes from the stored bytes.
#ifndef KVIST_TESTS_SERVICES_WORKER_DEVICE_FIXTURE_H_
#define KVIST_TESTS_SERVICES_WORKER_DEVICE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "services/transport/miss_reason.h"
#include "services/worker/client.h"
#include "services/worker/device_reader.h"
#include "tests/kernels/cuda/engine_pages.h"
#include "tests/services/worker/device_node.h"
#include "tests/services/worker/emulated_decoder.h"

namespace kvist::testing {

inline constexpr size_t kPromptBlocks = 20;
inline constexpr uint32_t kPages = kPromptBlocks + 3;  // more than the prompt has; one block a page
inline constexpr uint64_t kPromptSeed = 20261129;

// One rank's tensors of pages in its device memory.
class DeviceTensors {
 public:
  DeviceTensors(EmulatedDevice* device, const BlockShape& shape, uint32_t heads, uint32_t first_head)
      : device_(device), first_head_(first_head), model_(LayoutOf(shape, heads), shape.layers) {
    table_ = cuda::AllPages(kPages);
    std::mt19937_64 random(kPromptSeed);
    std::shuffle(table_.begin(), table_.end(), random);
    const std::vector<uint8_t> untouched(LayerBytes(), 0x5a);  // kUntouched
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      memory_.push_back(*device->Allocate(LayerBytes()));
      device->Write(memory_.back()->base(), untouched);
      addresses_.push_back(static_cast<uint16_t*>(memory_.back()->base().pointer()));
    }
  }

  DevicePages pages() const {
    DevicePages pages;
    pages.layout = model_.layout();
    pages.layer_pages = addresses_;
    pages.block_table = table_;
    pages.first_head = first_head_;
    return pages;
  }

  // Elements that are wrong, where the blocks of `range` are to be and all others of the prompt are not. What lies behind
  // the run, up to `asked`, may be anything.
  size_t Different(BlockRange range, size_t asked, const std::vector<std::vector<uint8_t>>& stored) {
    for (size_t block = range.first; block < range.last; ++block) {
      const BlockView view = ParseOrDie(stored[block]);
      model_.Expect(view, RequestFor(pages(), view.shape(), block));
    }
    const std::set<uint32_t> anything(table_.begin() + range.last, table_.begin() + asked);
    const size_t page_bytes = LayerBytes() / kPages;
    for (size_t layer = 0; layer < memory_.size(); ++layer) {
      const std::vector<uint8_t> bytes = device_->Read(memory_[layer]->base(), LayerBytes());
      for (uint32_t page = 0; page < kPages; ++page) {
        if (anything.count(page) > 0) continue;
        uint8_t* const to = reinterpret_cast<uint8_t*>(model_.addresses()[layer]) + page * page_bytes;
        std::copy_n(bytes.data() + page * page_bytes, page_bytes, to);
      }
    }
    return model_.Different();
  }

 private:
  static cuda::PageLayout LayoutOf(const BlockShape& shape, uint32_t heads) {
    return {cuda::PageOrder::kPackedNhd, kPages, shape.tokens, heads, shape.head_dim, shape.dtype};
  }
  size_t LayerBytes() const {
    const cuda::PageLayout& layout = model_.layout();
    return size_t{2} * layout.pages * layout.page_tokens * layout.heads * 2 * layout.head_dim;
  }

  EmulatedDevice* const device_;
  const uint32_t first_head_;
  cuda::EnginePages model_;
  std::vector<uint32_t> table_;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
  std::vector<uint16_t*> addresses_;
};

class DeviceReaderTest : public ::testing::Test {
 protected:
  DeviceReaderTest() {
    options_.ns.model = "test";
    options_.ns.layers = 2;
    options_.ns.heads = 2;
    options_.ns.head_dim = 64;
    options_.ns.tokens_per_block = 16;
    options_.codec = Codec::kI8;
    options_.deadline = kTestDeadline;
    options_.retry.budget = 1000;
    reader_options_.landing_bytes = uint64_t{1} << 20;
    reader_options_.scratch_bytes = uint64_t{2} << 20;
    reader_options_.pinned_bytes = uint64_t{2} << 20;
    reader_options_.staging_bytes = uint64_t{1} << 20;
    reader_options_.copy_deadline = kTestDeadline;
  }

  void Start(const std::vector<Reach>& nodes) {
    cluster_ = std::make_unique<DeviceCluster>(nodes);
    options_.view = cluster_->view();
    options_.transport = cluster_.get();
    client_ = *Client::Create(options_);
    worker_ = std::make_unique<End>(TestLimits(), /*ordinal=*/0);
    tensors_ = std::make_unique<DeviceTensors>(worker_->device.get(), shape(), shape().heads, /*first_head=*/0);
    reader_ = NewReader(worker_.get());
    PutPrompt();
  }

  std::unique_ptr<DeviceReader> NewReader(End* end) {
    DeviceReaderOptions options = reader_options_;
    options.device = end->device;
    options.decoder = &decoder_;
    options.communicators = end->communicators.get();
    options.connect_control = [this](const std::string& address) { return cluster_->ConnectControl(address); };
    auto reader = DeviceReader::Create(client_.get(), options);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return *std::move(reader);
  }

  void PutPrompt() {
    std::vector<uint32_t> tokens(kPromptBlocks * shape().tokens);
    std::iota(tokens.begin(), tokens.end(), 1000);
    chain_ = client_->Keys(tokens);
    std::vector<uint16_t> values(shape().Elements() * kPromptBlocks);
    std::mt19937_64 random(kPromptSeed);
    std::normal_distribution<float> normal;
    for (uint16_t& value : values) {
      const float sample = normal(random);
      uint32_t bits;
      std::memcpy(&bits, &sample, sizeof(bits));
      value = static_cast<uint16_t>(bits >> 16);
    }
    const auto put =
        client_->Put(chain_, ContiguousPages<const uint16_t>(values.data(), shape(), kPromptBlocks * shape().tokens));
    ASSERT_TRUE(put.ok()) << put.status();
    ASSERT_EQ(put->stored, kPromptBlocks) << put->failure;
    stored_.clear();
    for (size_t block = 0; block < kPromptBlocks; ++block) stored_.push_back(OwnerOf(block).Bytes(chain_[block]));
  }

  // All of the prompt lies on the devices of the nodes that have one.
  void Promote() {
    for (size_t block = 0; block < kPromptBlocks; ++block) {
      if (OwnerOf(block).reach != Reach::kHostOnly) OwnerOf(block).Promote(chain_[block]);
    }
  }

  absl::StatusOr<DeviceGetResult> TryGet(BlockRange range = {0, kPromptBlocks}) {
    return reader_->Get(chain_, range, tensors_->pages());
  }
  // What was delivered is what the reference decodes from what was stored.
  DeviceGetResult Get(BlockRange range = {0, kPromptBlocks}) {
    const auto result = TryGet(range);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return {};
    EXPECT_EQ(tensors_->Different({range.first, range.first + result->blocks}, range.last, stored_), 0u);
    return *result;
  }
  bool OpensNccl() {
    return Eventually([&] { return TryGet()->nccl_blocks > 0; });
  }

  void ExpectMiss(const DeviceGetResult& result, size_t blocks, v1::MissReason reason) {
    EXPECT_EQ(result.blocks, blocks);
    EXPECT_EQ(MissReasonName(result.miss), MissReasonName(reason)) << result.why;
  }

  BlockShape shape() const { return options_.ns.Shape(); }
  DeviceNode& OwnerOf(size_t block) {
    for (size_t i = 0; i < cluster_->size(); ++i) {
      if (cluster_->node(i).Has(chain_[block])) return cluster_->node(i);
    }
    ADD_FAILURE() << "nobody has block " << block;
    return cluster_->node(0);
  }

  ClientOptions options_;
  DeviceReaderOptions reader_options_;
  std::unique_ptr<DeviceCluster> cluster_;
  std::unique_ptr<Client> client_;
  EmulatedDecoder decoder_;  // outlives the streams that its kernels are on
  std::unique_ptr<End> worker_;
  std::unique_ptr<DeviceTensors> tensors_;
  std::unique_ptr<DeviceReader> reader_;
  std::vector<Key> chain_;
  std::vector<std::vector<uint8_t>> stored_;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_WORKER_DEVICE_FIXTURE_H_
