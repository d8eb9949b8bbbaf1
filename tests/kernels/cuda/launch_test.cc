// Goal    LaunchDecode gives the reference's bits in plain device memory; without a driver, or built without CUDA, it and
//         the launches of an encode say so.
// Method  With a device: blocks of random bytes into pages in its memory, and all of them back (the *_on_device_test run
//         everything else, in managed memory). Without one: the error. The build decides by KVIST_CUDA which can be.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/encode.h"
#include "tests/kernels/cuda/plan_fixture.h"

#if KVIST_CUDA
#include <cuda_runtime.h>
#endif

namespace kvist::cuda {
namespace {

using testing::HasSubstr;

constexpr BlockShape kShape = {2, 2, 128, 128, Dtype::kBf16};

// What both launches of an encode say where they cannot be carried out.
struct EncodeRefusals {
  absl::Status encode, write;
};
EncodeRefusals RefusedEncode() {
  const BlockShape shape = {1, 1, 16, 64, Dtype::kBf16};
  const std::vector<uint16_t> values = NormalValues(shape, 1);
  const auto plan =
      EncodePlan::Make({{IdentityAt(0), shape, ContiguousPages(values.data(), shape, shape.tokens), {Codec::kI8, 0}}});
  EXPECT_TRUE(plan.ok()) << MessageOf(plan.status());
  DeviceBytes workspace(plan->workspace_bytes()), table(EncodeLayout::MaxTableBytes(*plan));
  DeviceBytes out(MaxBlockBytes(shape, Codec::kI8));
  const auto layout = EncodeLayout::Make(*plan, std::vector<TileSums>(plan->tiles()), workspace.data(), table.data(),
                                         {{out.data(), out.size()}});
  EXPECT_TRUE(layout.ok()) << MessageOf(layout.status());
  return {LaunchEncode(*plan, plan->table_bytes().data(), workspace.data(), nullptr), LaunchWrite(*layout, nullptr)};
}

#if KVIST_CUDA

bool HasDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

// A copy of host bytes in device memory.
class OnDevice {
 public:
  explicit OnDevice(absl::Span<const uint8_t> bytes) : size_(bytes.size()) {
    EXPECT_EQ(cudaMalloc(&at_, size_), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(at_, bytes.data(), size_, cudaMemcpyHostToDevice), cudaSuccess);
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(at_); }
  uint8_t* at() const { return static_cast<uint8_t*>(at_); }
  void CopyTo(void* host) const { EXPECT_EQ(cudaMemcpy(host, at_, size_, cudaMemcpyDeviceToHost), cudaSuccess); }

 private:
  void* at_ = nullptr;
  size_t size_;
};

void ExpectReferenceBits(const BlockShape& shape, Codec codec, int precision, Basis basis, PageOrder order) {
  OneBlock one(shape, codec, codec == Codec::kLadder ? std::vector<uint8_t>{0, 1, 0} : std::vector<uint8_t>{0, 2, 0});
  one.layout.order = order;
  one.request.precision = precision;
  one.request.basis = basis;
  one.pages = std::make_unique<EnginePages>(one.layout, shape.layers);
  one.pages->Expect(ParseOrDie(one.block), one.request);
  const OnDevice block(one.block);
  const size_t tensor_bytes = 4 * size_t{one.layout.pages} * one.layout.page_tokens * shape.heads * shape.head_dim;
  std::vector<std::unique_ptr<OnDevice>> tensors;
  std::vector<uint16_t*> addresses;
  for (uint16_t* host : one.pages->addresses()) {
    tensors.push_back(std::make_unique<OnDevice>(absl::MakeSpan(reinterpret_cast<uint8_t*>(host), tensor_bytes)));
    addresses.push_back(reinterpret_cast<uint16_t*>(tensors.back()->at()));
  }
  one.request.device_bytes = block.at();
  one.request.layer_pages = addresses;
  const auto plan = DecodePlan::Make(one.layout, {one.request});
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  const OnDevice table(plan->table_bytes());
  const OnDevice workspace(std::vector<uint8_t>(plan->workspace_bytes(), 0xee));
  ASSERT_EQ(LaunchDecode(*plan, table.at(), workspace.at(), nullptr).ToString(), "OK");
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  uint32_t word = 1;
  EXPECT_EQ(cudaMemcpy(&word, workspace.at(), sizeof(word), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(word, 0u);
  for (size_t layer = 0; layer < tensors.size(); ++layer) tensors[layer]->CopyTo(one.pages->addresses()[layer]);
  EXPECT_EQ(one.pages->Different(), 0u) << CodecName(codec) << " head_dim " << shape.head_dim << " precision "
                                        << precision << " basis " << int(basis);
}

TEST(Launch, GivesTheReferencesBitsOnADevice) {
  if (!HasDevice()) GTEST_SKIP() << "no device; the emulated grid runs the same kernels";
  for (uint32_t head_dim : {64, 80, 96, 128, 256}) {
    for (Dtype dtype : {Dtype::kBf16, Dtype::kF16}) {
      const BlockShape shape = {2, 3, 112, head_dim, dtype};
      for (PageOrder order : {PageOrder::kPackedHnd, PageOrder::kPackedNhd, PageOrder::kKeyValueFirst}) {
        for (int precision : {2, 3, 4}) {
          ExpectReferenceBits(shape, Codec::kLadder, precision, Basis::kOriginal, order);
          ExpectReferenceBits(shape, Codec::kLadder, precision, Basis::kKeptRotated, order);
        }
        ExpectReferenceBits(shape, Codec::kI8, 8, Basis::kOriginal, order);
        ExpectReferenceBits(shape, Codec::kRaw16, 16, Basis::kOriginal, order);
      }
    }
  }
}

TEST(Launch, SaysWhyThereIsNoDevice) {
  if (HasDevice()) GTEST_SKIP() << "there is one";
  const OneBlock one(kShape, Codec::kLadder, {0});
  const auto plan = DecodePlan::Make(one.layout, {one.request});
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  DeviceBytes workspace(plan->workspace_bytes());
  const absl::Status status = LaunchDecode(*plan, plan->table_bytes().data(), workspace.data(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(MessageOf(status), HasSubstr("launch of the checks: "));
  EXPECT_EQ(one.pages->Different(), 0u);
  const EncodeRefusals refusals = RefusedEncode();
  EXPECT_EQ(refusals.encode.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(MessageOf(refusals.encode), HasSubstr("launch of encode: "));
  EXPECT_EQ(refusals.write.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(MessageOf(refusals.write), HasSubstr("launch of the copies: "));
}

#else

TEST(Launch, SaysThatTheBuildHasNoCuda) {
  const OneBlock one(kShape, Codec::kLadder, {0});
  const auto plan = DecodePlan::Make(one.layout, {one.request});
  ASSERT_TRUE(plan.ok()) << MessageOf(plan.status());
  DeviceBytes workspace(plan->workspace_bytes());
  const absl::Status status = LaunchDecode(*plan, plan->table_bytes().data(), workspace.data(), nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(MessageOf(status), HasSubstr("built without CUDA"));
  const EncodeRefusals refusals = RefusedEncode();
  for (const absl::Status& refusal : {refusals.encode, refusals.write}) {
    EXPECT_EQ(refusal.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(MessageOf(refusal), HasSubstr("built without CUDA"));
  }
}

#endif

}  // namespace
}  // namespace kvist::cuda
