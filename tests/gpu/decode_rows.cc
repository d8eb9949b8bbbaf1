#include <algorithm>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/launch.h"
#include "tests/gpu/kernel_rows.h"
#include "tests/kernels/random_block.h"

namespace kvist::cuda {
namespace {

constexpr uint64_t kPageBytes = uint64_t{1} << 30;
constexpr uint32_t kPageTokens = 16, kTokens = 128, kHeads = 8;

std::string NameOf(const KernelCase& what, uint32_t blocks) {
  return absl::StrCat(std::string(CodecName(what.codec)), what.basis == Basis::kKeptRotated ? " kept rotated" : "",
                      ", D = ", what.head_dim, ", ", what.layers, " layers, ", blocks * what.layers * 2 * kHeads,
                      " tiles");
}

// Copies of one block in device memory, their plan, and what a launch of it needs.
class DecodeCase {
 public:
  explicit DecodeCase(const KernelCase& what)
      : what_(what),
        shape_{what.layers, kHeads, kTokens, what.head_dim, Dtype::kBf16},
        blocks_(uint32_t(kPageBytes / shape_.PlainBytes())),
        block_(RandomBlock(shape_, what.codec, kTokens, {0}, random_)),
        stored_((block_.size() + 63) / 64 * 64 * blocks_),
        pages_(kPageBytes),
        plan_(Plan()),
        table_(plan_.table_bytes()),
        workspace_(plan_.workspace_bytes()) {}

  uint64_t stored_bytes() const { return uint64_t{block_.size()} * blocks_; }
  uint64_t written_bytes() const { return plan_.written_bytes(); }
  std::string name() const { return NameOf(what_, blocks_); }

  double DecodeSeconds() {
    const double seconds = MedianSeconds(
        [&](cudaStream_t stream) { RequireOk(LaunchDecode(plan_, table_.at(), workspace_.at(), stream), "decode"); });
    RequireGoodWords();
    return seconds;
  }
  double CheckSeconds() {
    const CheckSizes sizes = {uint32_t(plan_.requests()), plan_.layer_tasks(), plan_.pieces(), plan_.sum_items()};
    const DecodeTables tables = plan_.TablesAt(table_.at(), workspace_.at());
    const double seconds = MedianSeconds(
        [&](cudaStream_t stream) { Require(static_cast<cudaError_t>(LaunchChecks(tables, sizes, stream)), "checks"); });
    RequireGoodWords();
    return seconds;
  }

 private:
  DecodePlan Plan() {
    const size_t stride = (block_.size() + 63) / 64 * 64;
    const uint32_t pages_each = kTokens / kPageTokens;
    const PageLayout layout = {PageOrder::kPackedNhd, blocks_ * pages_each, kPageTokens, kHeads,
                               what_.head_dim,        shape_.dtype};
    std::vector<uint16_t*> tensors;
    for (uint32_t layer = 0; layer < what_.layers; ++layer) {
      tensors.push_back(reinterpret_cast<uint16_t*>(pages_.at() + layer * (kPageBytes / what_.layers)));
    }
    std::vector<uint32_t> order(layout.pages);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    std::vector<DecodeRequest> requests(blocks_);
    for (uint32_t i = 0; i < blocks_; ++i) {
      stored_.Fill(i * stride, block_);
      requests[i].device_bytes = stored_.at() + i * stride;
      requests[i].device_size_bytes = block_.size();
      requests[i].prefix = absl::MakeConstSpan(block_).first(BlockView::PrefixBytes(block_).value());
      requests[i].layers = {0, what_.layers};
      requests[i].basis = what_.basis;
      requests[i].layer_pages = tensors;
      requests[i].block_table = absl::MakeConstSpan(order).subspan(i * pages_each, pages_each);
    }
    absl::StatusOr<DecodePlan> plan = DecodePlan::Make(layout, requests);
    RequireOk(plan.status(), "plan of a decode");
    return *std::move(plan);
  }
  void RequireGoodWords() {
    std::vector<uint32_t> words(blocks_);
    Require(cudaMemcpy(words.data(), workspace_.at(), words.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost),
            "words");
    for (const uint32_t word : words) RequireOk(StatusOfWord(word), "a block");
  }

  const KernelCase what_;
  const BlockShape shape_;
  const uint32_t blocks_;
  std::mt19937_64 random_{1};
  const std::vector<uint8_t> block_;
  DeviceBuffer stored_, pages_;
  const DecodePlan plan_;
  DeviceBuffer table_, workspace_;
};

}  // namespace

Row DecodeRow(const KernelCase& what, double peak) {
  DecodeCase decode(what);
  const double rate = double(decode.stored_bytes() + decode.written_bytes()) / decode.DecodeSeconds();
  return {absl::StrCat("decode ", decode.name()), rate / 1e9, rate / peak, what.reach};
}

Row CheckRow(const KernelCase& what, double peak) {
  DecodeCase decode(what);
  const double rate = double(decode.stored_bytes()) / decode.CheckSeconds();
  return {absl::StrCat("checks of ", decode.name()), rate / 1e9, rate / peak, what.reach};
}

}  // namespace kvist::cuda
