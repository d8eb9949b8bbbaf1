#include "absl/strings/str_cat.h"
#include "kernels/cuda/encode.h"
#include "tests/gpu/kernel_rows.h"
#include "tests/kernels/block_builder.h"

namespace kvist::cuda {
namespace {

constexpr uint64_t kPageBytes = uint64_t{128} << 20;  // the workspace holds every form of every tile beside them
constexpr uint32_t kTokens = 128, kHeads = 8;

absl::Span<const uint8_t> BytesOf(const std::vector<uint16_t>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), 2 * values.size()};
}

// What the CPU's encoder makes of the same values: a fast kernel with other bytes is worth nothing.
void RequireCpuBytes(const EncodeRequest& request, const std::vector<uint16_t>& values, const uint8_t* device_block,
                     uint64_t size_bytes) {
  std::vector<uint8_t> expected(MaxBlockBytes(request.shape, request.options.codec)), got(size_bytes);
  const auto size =
      Encode(request.identity, request.shape, ContiguousPages(values.data(), request.shape, request.shape.tokens),
             request.options, absl::MakeSpan(expected));
  RequireOk(size.status(), "encode on the CPU");
  expected.resize(*size);
  Require(cudaMemcpy(got.data(), device_block, size_bytes, cudaMemcpyDeviceToHost), "block");
  if (got == expected) return;
  std::fprintf(stderr, "gpu_bench: a block encoded on the device is not the CPU's\n");
  std::exit(1);
}

}  // namespace

Row EncodeRow(const KernelCase& what, double peak) {
  const BlockShape shape = {what.layers, kHeads, kTokens, what.head_dim, Dtype::kBf16};
  const std::vector<uint16_t> values = NormalValues(shape, 1);
  const uint64_t plain_bytes = shape.PlainBytes(), most_bytes = (MaxBlockBytes(shape, what.codec) + 63) / 64 * 64;
  const uint32_t blocks = uint32_t(kPageBytes / plain_bytes);
  DeviceBuffer pages(plain_bytes * blocks), stored(most_bytes * blocks);
  std::vector<EncodeRequest> requests;
  std::vector<EncodeOutput> outputs;
  for (uint32_t i = 0; i < blocks; ++i) {
    pages.Fill(i * plain_bytes, BytesOf(values));
    const auto* const at = reinterpret_cast<const uint16_t*>(pages.at() + i * plain_bytes);
    requests.push_back({IdentityAt(kTokens), shape, ContiguousPages(at, shape, kTokens), {what.codec, 0}});
    outputs.push_back({stored.at() + i * most_bytes, most_bytes});
  }
  const auto plan = EncodePlan::Make(requests);
  RequireOk(plan.status(), "plan of an encode");
  DeviceBuffer table(plan->table_bytes()), workspace(plan->workspace_bytes());
  DeviceBuffer layout_table(EncodeLayout::MaxTableBytes(*plan));
  const double encode_seconds = MedianSeconds(
      [&](cudaStream_t stream) { RequireOk(LaunchEncode(*plan, table.at(), workspace.at(), stream), "encode"); });
  std::vector<TileSums> sums(plan->tiles());
  Require(cudaMemcpy(sums.data(), workspace.at(), plan->sums_bytes(), cudaMemcpyDeviceToHost), "sums");
  const auto layout = EncodeLayout::Make(*plan, sums, workspace.at(), layout_table.at(), outputs);
  RequireOk(layout.status(), "layout of an encode");
  layout_table.Fill(0, layout->table_bytes());
  const double write_seconds =
      MedianSeconds([&](cudaStream_t stream) { RequireOk(LaunchWrite(*layout, stream), "write"); });
  RequireCpuBytes(requests[0], values, outputs[0].device_bytes, layout->block_bytes(0));
  uint64_t bytes = plain_bytes * blocks;
  for (uint32_t i = 0; i < blocks; ++i) bytes += layout->block_bytes(i);
  const double rate = double(bytes) / (encode_seconds + write_seconds);
  return {absl::StrCat("encode ", std::string(CodecName(what.codec)), ", D = ", what.head_dim, ", ", what.layers,
                       " layers, ", plan->tiles(), " tiles"),
          rate / 1e9, rate / peak, what.reach};
}

}  // namespace kvist::cuda
