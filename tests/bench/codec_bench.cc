// Goal    Decode and encode, DRAM to DRAM on one core, against memcpy of the same bf16; stored bytes.
// Method  Blocks of SmolLM2's shape (30 layers, 3 KV heads, D = 64, 128 tokens) of N(0, 1) with channel means; for q
//         of values that cost what a real model's do under profiles like its own (model_like.h says what was measured). Every
//         round runs each side once over a working set far larger than the caches, the sides taking turns; medians of
//         the rounds. Pages are touched before the first round. Seconds are the thread's own: stalls on memory count,
//         neighbours on the machine do not. One JSON object a line.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/codec.h"
#include "tests/kernels/q/model_like.h"

namespace kvist {
namespace {

constexpr BlockShape kShape = {30, 3, 128, 64, Dtype::kBf16};
constexpr size_t kOutputBytes = size_t{512} << 20;
constexpr size_t kEncodeBytes = size_t{64} << 20;
constexpr int kRounds = 9;
constexpr EncodeOptions kLadder4 = {.codec = Codec::kLadder};
constexpr EncodeOptions kTrellis = {.codec = Codec::kTrellis};
constexpr EncodeOptions kQ = {.codec = Codec::kQ};
constexpr EncodeOptions kLadder8 = {.codec = Codec::kLadder, .key_bits = 8, .value_bits = 8};
constexpr char kCommand[] = "bazel run //tests/bench:codec_bench";

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "codec_bench: %s\n", what.c_str());
  std::exit(1);
}

// Memory of huge pages where the system gives them, so that neither side measures page walks.
uint8_t* Allocate(size_t size_bytes) {
  void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Fail("out of memory");
  madvise(memory, size_bytes, MADV_HUGEPAGE);
  std::memset(memory, 1, size_bytes);
  return static_cast<uint8_t*>(memory);
}

// What a case encodes: noise, or what a profile was made for.
struct Input {
  std::vector<uint16_t> values;
  const Profile* profile = nullptr;
};

std::vector<uint16_t> RandomValues() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(kShape.Elements());
  for (size_t i = 0; i < values.size(); ++i) {
    const float mean = i < values.size() / 2 ? float(int(i % kShape.head_dim) - 32) / 16 : 0.0f;
    values[i] = uint16_t((std::bit_cast<uint32_t>(normal(random) + mean) + 0x8000) >> 16);
  }
  return values;
}

size_t EncodeOrFail(const uint16_t* values, const Input& input, EncodeOptions options, uint32_t first_position,
                    absl::Span<uint8_t> out) {
  BlockIdentity identity;
  identity.first_position = first_position;
  if (input.profile != nullptr) identity.profile_digest = input.profile->digest();
  options.profile = input.profile;
  const auto size = Encode(identity, kShape, ContiguousPages(values, kShape, kShape.tokens), options, out);
  if (!size.ok()) Fail(std::string(size.status().message()));
  return *size;
}

std::vector<uint8_t> EncodedBlock(const Input& input, const EncodeOptions& options, uint32_t first_position) {
  std::vector<uint8_t> bytes(MaxBlockBytes(kShape, options.codec));
  bytes.resize(EncodeOrFail(input.values.data(), input, options, first_position, absl::MakeSpan(bytes)));
  return bytes;
}

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + double(now.tv_nsec) * 1e-9;
}

template <typename Work>
double SecondsOf(const Work& work) {
  const double start = ThreadSeconds();
  work();
  return ThreadSeconds() - start;
}

double Median(std::vector<double> samples) {
  std::nth_element(samples.begin(), samples.begin() + samples.size() / 2, samples.end());
  return samples[samples.size() / 2];
}

enum class Reach { kAtLeast, kAtMost, kNone };

void Print(const std::string& name, double ours, double other, const char* unit, Reach kind, double reach) {
  const double ratio = other > 0 ? ours / other : 0;
  const bool ok = kind == Reach::kNone || (kind == Reach::kAtLeast ? ratio >= reach : ratio <= reach);
  const std::string reach_text = kind == Reach::kNone ? "null" : std::to_string(reach).substr(0, 5);
  std::printf(
      "{\"name\": \"%s\", \"ours\": %.4g, \"other\": %.4g, \"unit\": \"%s\", \"ratio\": %.4f, \"reach\": %s, "
      "\"ok\": %s, \"command\": \"%s\"}\n",
      name.c_str(), ours, other, unit, ratio, reach_text.c_str(), ok ? "true" : "false", kCommand);
  std::fflush(stdout);
}

// One codec and basis: as many copies of the encoded block as fill the output, each decoded to its own pages.
struct DecodeCase {
  const char* name;
  EncodeOptions options;
  Basis basis;
  int precision;
  Reach kind;
  double reach;
  const Input* input;
  const uint8_t* blocks = nullptr;
  size_t block_stride = 0, block_bytes = 0;
  std::vector<double> seconds = {};

  void DecodeAll(uint8_t* out, size_t copies) {
    for (size_t i = 0; i < copies; ++i) {
      const auto view = BlockView::Parse({blocks + i * block_stride, block_bytes});
      if (!view.ok()) Fail(std::string(view.status().message()));
      uint16_t* base = reinterpret_cast<uint16_t*>(out + i * kShape.PlainBytes());
      const absl::Status status = Decode(*view, {0, kShape.layers}, precision, basis,
                                         ContiguousPages(base, kShape, kShape.tokens), input->profile);
      if (!status.ok()) Fail(std::string(status.message()));
    }
  }
};

struct Inputs {
  Input noise, local, deep;
};

void BenchDecode(const Inputs& inputs) {
  const size_t copies = kOutputBytes / kShape.PlainBytes(), output_bytes = copies * kShape.PlainBytes();
  uint8_t* plain = Allocate(output_bytes);
  uint8_t* out = Allocate(output_bytes);
  const Input* noise = &inputs.noise;
  std::vector<DecodeCase> cases = {
      {"decode x16 against memcpy of the same bf16", {Codec::kX16}, Basis::kOriginal, 16, Reach::kAtLeast, 0.6, noise},
      {"decode i8 against memcpy of the same bf16", {Codec::kI8}, Basis::kOriginal, 8, Reach::kAtLeast, 0.9, noise},
      {"decode ladder kept rotated against memcpy", kLadder4, Basis::kKeptRotated, 4, Reach::kAtLeast, 1.1, noise},
      {"decode ladder against memcpy", kLadder4, Basis::kOriginal, 4, Reach::kAtLeast, 0.7, noise},
      {"decode ladder of 8 bits kept rotated against memcpy", kLadder8, Basis::kKeptRotated, 8, Reach::kAtLeast, 1.1,
       noise},
      {"decode ladder of 8 bits against memcpy", kLadder8, Basis::kOriginal, 8, Reach::kAtLeast, 0.7, noise},
      {"decode trellis of 3 and 2 bits against memcpy", kTrellis, Basis::kOriginal, 3, Reach::kAtLeast, 0.35, noise},
      {"decode trellis kept rotated against memcpy", kTrellis, Basis::kKeptRotated, 3, Reach::kNone, 0, noise},
      {"decode q LOCAL against memcpy", kQ, Basis::kOriginal, 1, Reach::kAtLeast, 0.08, &inputs.local},
      {"decode q DEEP against memcpy", kQ, Basis::kOriginal, 1, Reach::kAtLeast, 0.04, &inputs.deep},
      {"decode ladder at 2 bits against memcpy", kLadder4, Basis::kOriginal, 2, Reach::kNone, 0, noise},
  };
  for (DecodeCase& item : cases) {
    const std::vector<uint8_t> block = EncodedBlock(*item.input, item.options, kShape.tokens);
    item.block_bytes = block.size();
    item.block_stride = (block.size() + 63) / 64 * 64;
    uint8_t* blocks = Allocate(item.block_stride * copies);
    for (size_t i = 0; i < copies; ++i) std::memcpy(blocks + i * item.block_stride, block.data(), block.size());
    item.blocks = blocks;
  }
  std::vector<double> copy_seconds;
  for (int round = 0; round < kRounds; ++round) {
    for (DecodeCase& item : cases) {
      copy_seconds.push_back(SecondsOf([&] { std::memcpy(out, plain, output_bytes); }));
      item.seconds.push_back(SecondsOf([&] { item.DecodeAll(out, copies); }));
    }
  }
  const double copy = output_bytes / Median(copy_seconds) / 1e9;
  for (const DecodeCase& item : cases) {
    Print(item.name, output_bytes / Median(item.seconds) / 1e9, copy, "GB/s of bf16 out", item.kind, item.reach);
  }
}

struct EncodeCase {
  const char* name;
  EncodeOptions options;
  double reach;
  const Input* input;
};

// Blocks far larger than the caches, into memory that was there before, as a worker's pool is.
void BenchEncode(const Inputs& inputs) {
  const Input* noise = &inputs.noise;
  const std::vector<EncodeCase> cases = {{"x16", {Codec::kX16}, 0.1, noise},
                                         {"i8", {Codec::kI8}, 0.2, noise},
                                         {"ladder", kLadder4, 0.06, noise},
                                         {"ladder of 8 bits", kLadder8, 0.06, noise},
                                         {"trellis of 3 and 2 bits", kTrellis, 0.005, noise},
                                         {"q LOCAL", kQ, 0.003, &inputs.local},
                                         {"q DEEP", kQ, 0.003, &inputs.deep}};
  const size_t copies = kEncodeBytes / kShape.PlainBytes(), plain_bytes = copies * kShape.PlainBytes();
  // As much is copied as for the decoders: memcpy is faster then.
  const size_t copied_bytes = kOutputBytes;
  const size_t most_bytes = (MaxBlockBytes(kShape, Codec::kX16) + 4095) / 4096 * 4096;
  uint8_t* plain = Allocate(copied_bytes);
  uint8_t* copied = Allocate(copied_bytes);
  uint8_t* out = Allocate(copies * most_bytes);
  for (const EncodeCase& item : cases) {
    for (size_t i = 0; i < copies; ++i) {
      std::memcpy(plain + i * kShape.PlainBytes(), item.input->values.data(), kShape.PlainBytes());
    }
    const auto encode_all = [&] {
      for (size_t i = 0; i < copies; ++i) {
        const auto* values = reinterpret_cast<const uint16_t*>(plain + i * kShape.PlainBytes());
        EncodeOrFail(values, *item.input, item.options, kShape.tokens, {out + i * most_bytes, most_bytes});
      }
    };
    std::vector<double> seconds, copy_seconds;
    for (int round = 0; round < kRounds; ++round) {
      copy_seconds.push_back(SecondsOf([&] { std::memcpy(copied, plain, copied_bytes); }));
      seconds.push_back(SecondsOf(encode_all));
    }
    Print("encode " + std::string(item.name) + " against memcpy", plain_bytes / Median(seconds) / 1e9,
          copied_bytes / Median(copy_seconds) / 1e9, "GB/s of bf16 in", Reach::kAtLeast, item.reach);
  }
}

// The first block of a prompt keeps its sinks and is the larger one: it is the row with a reach.
void BenchBytes(const Inputs& inputs) {
  const double plain = double(kShape.PlainBytes());
  for (const auto& [codec, reach] : {std::pair{Codec::kLadder, 0.275}, std::pair{Codec::kI8, 0.52},
                                     std::pair{Codec::kX16, 12.2 / 16}, std::pair{Codec::kTrellis, 0.185}}) {
    const std::string name(CodecName(codec));
    const double first = double(EncodedBlock(inputs.noise, {codec}, 0).size());
    const double later = double(EncodedBlock(inputs.noise, {codec}, kShape.tokens).size());
    Print("stored bytes of " + name + ", first block of a prompt, 128 tokens, D = 64, against bf16", first, plain,
          "bytes", Reach::kAtMost, reach);
    Print("stored bytes of " + name + ", later blocks", later, plain, "bytes", Reach::kAtMost, reach);
  }
  for (const auto& [name, input] : {std::pair{"LOCAL", &inputs.local}, std::pair{"DEEP", &inputs.deep}}) {
    const double bytes = double(EncodedBlock(*input, kQ, kShape.tokens).size());
    Print("stored bytes of q " + std::string(name) + ", of values made for it", bytes, plain, "bytes", Reach::kNone, 0);
  }
}

}  // namespace
}  // namespace kvist

int main() {
  using kvist::ModelLike;
  const kvist::Profile local = kvist::ParseProfileOrDie(kvist::WriteOrDie(ModelLikeProfileFile(ModelLike::kLocal)));
  const kvist::Profile deep = kvist::ParseProfileOrDie(kvist::WriteOrDie(ModelLikeProfileFile(ModelLike::kDeep)));
  const kvist::Inputs inputs = {{kvist::RandomValues()},
                                {DrawValues(local, kvist::kShape, kvist::kShape.tokens), &local},
                                {DrawValues(deep, kvist::kShape, kvist::kShape.tokens), &deep}};
  kvist::BenchDecode(inputs);
  kvist::BenchEncode(inputs);
  kvist::BenchBytes(inputs);
}
