// Goal    The device's kernels take and refuse exactly the blocks that the CPU does, and write what it writes: no bytes make
//         them read outside of the block or touch a page of a block that they refuse.
// Input   As block_fuzz: 4 bytes that choose layers, precision, basis and a cut, then a block.
// Method  The kernels' bodies on the emulated grid, in memory of exactly the block's size, against the CPU's oracle.
#include <vector>

#include "kernels/reference/decode.h"
#include "tests/fuzz/block_input.h"
#include "tests/kernels/cuda/plan_fixture.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate unplanned("refused before a launch"), host_only("left to the host"), raised("refused by the device"),
    decoded("decoded"), rotated("decoded as kept"), partial("decoded from a part of its planes");

bool HasKernels(Codec codec) { return codec == Codec::kRaw16 || codec == Codec::kI8 || codec == Codec::kLadder; }

// Whether the CPU gives the values: every piece that is needed verified, then decoded.
absl::Status DecodeOnCpu(const BlockView& view, const cuda::DecodeRequest& request, std::vector<uint16_t>* values) {
  values->assign(view.shape().PlainBytes() / 2, 0);
  const Pages pages = ContiguousPages(values->data(), view.shape(), view.shape().tokens);
  absl::Status status = view.Verify(request.layers.first, request.layers.last, request.precision);
  if (!status.ok()) return status;
  return reference::Decode(view, request.layers, request.precision, request.basis, pages);
}

void DecodeOnBoth(const fuzz::BlockChoice& choice, const std::vector<uint8_t>& bytes) {
  const auto view = BlockView::Parse(bytes);
  if (!view.ok() || view->shape().PlainBytes() > fuzz::kMaxPlainBytes) return;
  cuda::OneBlock one(bytes);
  one.request.layers = {choice.first_layer, choice.last_layer};
  one.request.precision = choice.precision;
  one.request.basis = choice.basis;
  const absl::Span<uint16_t* const> all = one.request.layer_pages;
  if (choice.first_layer < choice.last_layer && choice.last_layer <= view->shape().layers) {
    one.request.layer_pages = all.first(choice.last_layer - choice.first_layer);
  }
  std::vector<uint16_t> values;
  const absl::Status on_cpu = DecodeOnCpu(*view, one.request, &values);
  const auto plan = cuda::DecodePlan::Make(one.layout, {one.request});
  const bool has_kernels = HasKernels(view->codec());
  KVIST_HOLDS(has_kernels || !plan.ok(), "a launch is planned for ", std::string(CodecName(view->codec())));
  if (!plan.ok()) {
    const bool left_to_host = absl::IsUnimplemented(plan.status());
    KVIST_HOLDS(!on_cpu.ok() || left_to_host,
                "the CPU decodes what no launch is planned for: ", plan.status().message());
    KVIST_HOLDS(!plan.status().message().empty(), "refused without a word");
    (left_to_host ? host_only : unplanned).Pass();
    return;
  }
  const uint32_t word = cuda::RunDecode(*plan)[0];
  KVIST_HOLDS(cuda::StatusOfWord(word).ok() == on_cpu.ok(), "device: ", cuda::StatusOfWord(word).message(),
              ", CPU: ", on_cpu.message());
  if (word == 0) one.pages->Expect(*view, one.request);
  KVIST_HOLDS(one.pages->Different() == 0, one.pages->Different(), " elements differ");
  (word == 0 ? decoded : raised).Pass();
  if (word == 0 && choice.basis == Basis::kKeptRotated) rotated.Pass();
  if (word == 0 && view->PlanesPresent() < view->planes()) partial.Pass();
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::fuzz::Input input(data, size);
  const kvist::fuzz::BlockChoice choice = kvist::fuzz::TakeChoice(&input);
  const absl::Span<const uint8_t> block = input.Rest();
  kvist::DecodeOnBoth(choice, {block.begin(), block.end()});
  const absl::Span<const uint8_t> cut = block.first(block.size() - block.size() * choice.cut / 256);
  if (cut.size() < block.size()) kvist::DecodeOnBoth(choice, {cut.begin(), cut.end()});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  return kvist::fuzz::MutateBlock(data, size, max_size, seed);
}
