// How placement behaves in a simulated cluster. All figures are computed, not timed: the same run gives the same ones.
//
//   one join       64 nodes, 100,000 segments: what changes its owner when the 64th joins, against its ideal share
//   64 nodes       bytes of 100,000 segments: the fullest node against the mean
//                  Both over 20 seeds: the median, and the worst for information. Chance alone (placement_test.cc) puts
//                  one seed in a hundred beyond the reach, whatever the function
//   the trace      with the path of a request trace as argument (placement.h says which; `-` reads stdin): bytes
//                  stored on 16 nodes, and bytes read without extra copies of hot segments
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "tests/bench/placement.h"
#include "tests/bench/rows.h"

namespace kvist::bench {
namespace {

constexpr size_t kNodes = 64, kSegments = 100000, kTraceNodes = 16;
constexpr uint64_t kSeeds = 20;

double Mean(const Spread& spread) {
  return static_cast<double>(spread.blocks) / static_cast<double>(spread.by_node.size());
}

void PrintSpread(const std::string& name, const Spread& spread, std::optional<Target> target) {
  PrintRow(name, spread.MaxToMean() * Mean(spread), Mean(spread), "blocks", target);
}

template <typename Result, typename Ratio>
std::vector<Result> Sorted(std::vector<Result> results, Ratio ratio) {
  std::sort(results.begin(), results.end(), [&](const Result& a, const Result& b) { return ratio(a) < ratio(b); });
  return results;
}

void PrintMoves(const std::string& name, const Moves& moves, std::optional<Target> target) {
  PrintRow(name, static_cast<double>(moves.moved), moves.ideal, "segments", target);
}

// False if a segment moved that did not have to.
bool PrintSimulated() {
  std::vector<Moves> moves;
  std::vector<Spread> spreads;
  bool sound = true;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    moves.push_back(MovedByOneJoin(kNodes, kSegments, seed));
    spreads.push_back(SpreadOfPrompts(kNodes, kSegments, seed));
    sound = sound && moves.back().astray == 0;
  }
  moves = Sorted(std::move(moves), [](const Moves& m) { return m.Ratio(); });
  spreads = Sorted(std::move(spreads), [](const Spread& s) { return s.MaxToMean(); });
  const Target reach{1.1, Reach::kAtMost};
  PrintMoves("segments moved by one join to 64 nodes / ideal, median of 20 seeds", moves[kSeeds / 2], reach);
  PrintMoves("  worst of 20 seeds", moves.back(), std::nullopt);
  PrintSpread("bytes of the fullest of 64 nodes / mean, median of 20 seeds", spreads[kSeeds / 2], reach);
  PrintSpread("  worst of 20 seeds", spreads.back(), std::nullopt);
  if (!sound) std::fprintf(stderr, "placement_bench: a join moved segments between nodes that were there before\n");
  return sound;
}

int PrintTrace(const std::string& path) {
  std::ifstream file;
  if (path != "-") file.open(path);
  if (path != "-" && !file) {
    std::fprintf(stderr, "placement_bench: cannot open %s\n", path.c_str());
    return 2;
  }
  const absl::StatusOr<TraceSpread> trace = SpreadOfTrace(kTraceNodes, path == "-" ? std::cin : file);
  if (!trace.ok()) {
    std::fprintf(stderr, "placement_bench: %s: %s; give an unpacked trace, or `-` and pipe it in\n", path.c_str(),
                 std::string(trace.status().message()).c_str());
    return 2;
  }
  PrintSpread("trace: bytes stored on the fullest of 16 nodes / mean", trace->stored, Target{1.05, Reach::kAtMost});
  PrintSpread("trace: bytes read from the busiest of 16 nodes / mean", trace->read, std::nullopt);
  return 0;
}

}  // namespace
}  // namespace kvist::bench

int main(int argc, char** argv) {
  if (argc > 2) {
    std::fprintf(stderr, "usage: placement_bench [TRACE]\n");
    return 2;
  }
  if (!kvist::bench::PrintSimulated()) return 1;
  return argc == 2 ? kvist::bench::PrintTrace(argv[1]) : 0;
}
