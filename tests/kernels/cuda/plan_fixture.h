// One block with its pages and a request that is right: tests change what they want to see refused.
#ifndef KVIST_TESTS_KERNELS_CUDA_PLAN_FIXTURE_H_
#define KVIST_TESTS_KERNELS_CUDA_PLAN_FIXTURE_H_

#include <memory>
#include <vector>

#include "tests/kernels/cuda/engine_pages.h"
#include "tests/kernels/random_block.h"

namespace kvist::cuda {

class OneBlock {
 public:
  OneBlock(const BlockShape& shape, Codec codec, const std::vector<uint8_t>& modes, uint64_t seed = 42)
      : OneBlock(MakeBlock(shape, codec, modes, seed)) {}

  // REQUIRES: header and table that parse.
  explicit OneBlock(const std::vector<uint8_t>& bytes) : block(bytes), device(bytes) {
    const BlockShape shape = ParseOrDie(block).shape();
    layout = {PageOrder::kPackedNhd, shape.tokens / 16 + 1, 16, shape.heads, shape.head_dim, shape.dtype};
    pages = std::make_unique<EnginePages>(layout, shape.layers);
    for (uint32_t page = 0; page < shape.tokens / 16; ++page) table.push_back(page + 1);
    request.device_bytes = device.data();
    request.device_size_bytes = device.size();
    request.prefix = PrefixOf(block);
    request.layers = {0, shape.layers};
    request.layer_pages = pages->addresses();
    request.block_table = table;
  }

  absl::Status MakeStatus() const { return DecodePlan::Make(layout, {request}).status(); }

  // The block's status word. REQUIRES: a plan that can be made.
  uint32_t Run() const {
    const auto plan = DecodePlan::Make(layout, {request});
    EXPECT_TRUE(plan.ok()) << MessageOf(plan.status());
    return plan.ok() ? RunDecode(*plan)[0] : ~0u;
  }

  std::vector<uint8_t> block;
  DeviceBytes device;
  PageLayout layout;
  std::unique_ptr<EnginePages> pages;
  std::vector<uint32_t> table;
  DecodeRequest request;

 private:
  static std::vector<uint8_t> MakeBlock(const BlockShape& shape, Codec codec, const std::vector<uint8_t>& modes,
                                        uint64_t seed) {
    std::mt19937_64 random(seed);
    return RandomBlock(shape, codec, 0, modes, random);
  }
};

}  // namespace kvist::cuda

#endif  // KVIST_TESTS_KERNELS_CUDA_PLAN_FIXTURE_H_
