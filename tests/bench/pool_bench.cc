// Goal    Decode of many blocks scales with cores: a worker's pool of decoders with two threads against one with one.
// Method  Blocks of SmolLM2's shape as they arrive, each checked and decoded by a task of its own, as a client does it, into
//         pages of its own; codecs whose decode is bound by memory and codecs whose decode is bound by arithmetic. The two
//         pools take turns, who goes first too; medians of the ratios of the rounds. Two rows each: by the threads' own
//         seconds (bytes for each of them, times the threads: what they do when each has a core; what one takes from the
//         other in caches and memory counts), which has the reach, and by wall time, which shows the same only where two
//         cores are free.
#include <time.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "kernels/codec.h"
#include "services/runtime/runtime.h"
#include "services/runtime/thread_pool.h"
#include "tests/bench/rows.h"
#include "tests/kernels/q/model_like.h"

namespace kvist {
namespace {

constexpr BlockShape kShape = {30, 3, 128, 64, Dtype::kBf16};
constexpr size_t kBlocks = 48;
constexpr int kRounds = 15;
constexpr double kReach = 1.8;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "pool_bench: %s\n", what.c_str());
  std::exit(1);
}

std::vector<uint16_t> Noise() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(kShape.Elements());
  for (uint16_t& value : values) value = Bf16FromFloat(normal(random));
  return values;
}

int64_t ThreadNs() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

struct Times {
  double wall, own;  // seconds; own: of all threads together
};

// One codec's block, and pages for as many copies of it as are decoded in a round.
struct Case {
  std::string name;
  const Profile* profile;
  std::vector<uint8_t> block;
  std::vector<uint16_t>* pages;

  void DecodeCopy(size_t copy) const {
    const auto view = BlockView::Parse(block);
    if (!view.ok()) Fail(view.status().ToString());
    if (const absl::Status status = view->Verify(0, kShape.layers, 0); !status.ok()) Fail(status.ToString());
    const Pages out = ContiguousPages(pages->data() + copy * kShape.Elements(), kShape, kShape.tokens);
    const absl::Status status = Decode(*view, {0, kShape.layers}, 0, Basis::kOriginal, out, profile);
    if (!status.ok()) Fail(status.ToString());
  }

  Times With(ThreadPool& pool) const {
    std::atomic<int64_t> own_ns = 0;
    const double wall = Seconds([&] {
      absl::BlockingCounter left(kBlocks);
      for (size_t i = 0; i < kBlocks; ++i) {
        pool.Submit([this, i, &left, &own_ns] {
          const int64_t start = ThreadNs();
          DecodeCopy(i);
          own_ns += ThreadNs() - start;
          left.DecrementCount();
        });
      }
      left.Wait();
    });
    return {wall, double(own_ns) * 1e-9};
  }
};

Case NewCase(std::string name, EncodeOptions options, const Profile* profile, const std::vector<uint16_t>& values,
             std::vector<uint16_t>* pages) {
  BlockIdentity identity;
  identity.first_position = kShape.tokens;
  if (profile != nullptr) identity.profile_digest = profile->digest();
  options.profile = profile;
  std::vector<uint8_t> block(MaxBlockBytes(kShape, options.codec));
  const auto size =
      Encode(identity, kShape, ContiguousPages(values.data(), kShape, kShape.tokens), options, absl::MakeSpan(block));
  if (!size.ok()) Fail(size.status().ToString());
  block.resize(*size);
  return {std::move(name), profile, std::move(block), pages};
}

void Print(const std::string& name, double bytes, const std::vector<double>& one_seconds,
           const std::vector<double>& ratios, std::optional<Target> target) {
  const double rate = bytes / Median(one_seconds) * 1e-9, ratio = Median(ratios);
  PrintRow("decode " + name, ratio * rate, rate, "GB/s of bf16 out", target);
}

void Bench(const Case& item, ThreadPool& one, ThreadPool& two) {
  std::vector<double> wall, own, wall_ratios, own_ratios;
  item.With(one);  // threads start, pages are touched
  item.With(two);
  for (int round = 0; round < kRounds; ++round) {
    Times with_one, with_two;
    if (round % 2 == 0) with_one = item.With(one);
    with_two = item.With(two);
    if (round % 2 == 1) with_one = item.With(one);
    wall.push_back(with_one.wall);
    own.push_back(with_one.own);
    wall_ratios.push_back(with_one.wall / with_two.wall);
    own_ratios.push_back(2 * with_one.own / with_two.own);
  }
  const double bytes = double(kBlocks) * double(kShape.PlainBytes());
  Print(item.name + " with two threads of the worker's pool against one, by their own seconds", bytes, own, own_ratios,
        Target{kReach, Reach::kAtLeast});
  Print(item.name + ", the same by wall time", bytes, wall, wall_ratios, std::nullopt);
}

void BenchAll() {
  ThreadPool one(RealRuntime(), 1), two(RealRuntime(), 2);
  std::vector<uint16_t> pages(kBlocks * kShape.Elements());
  const std::vector<uint16_t> noise = Noise();
  const Profile profile = ParseProfileOrDie(WriteOrDie(ModelLikeProfileFile(ModelLike::kLocal)));
  const std::vector<uint16_t> drawn = DrawValues(profile, kShape, kShape.tokens);
  Bench(NewCase("i8", {.codec = Codec::kI8}, nullptr, noise, &pages), one, two);
  Bench(NewCase("ladder", {.codec = Codec::kLadder}, nullptr, noise, &pages), one, two);
  Bench(NewCase("trellis", {.codec = Codec::kTrellis}, nullptr, noise, &pages), one, two);
  Bench(NewCase("q LOCAL", {.codec = Codec::kQ}, &profile, drawn, &pages), one, two);
}

}  // namespace
}  // namespace kvist

int main() { kvist::BenchAll(); }
