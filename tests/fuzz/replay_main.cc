// Runs a fuzz target without libFuzzer, in any build with any compiler.
//
//   TARGET FILE-OR-FOLDER...            runs these inputs
//   TARGET --test FILE-OR-FOLDER...     also: every gate must have been passed, and kMutants mutants of the inputs run.
//                                       Their seed is fixed and printed; one that fails is written to
//                                       $TEST_UNDECLARED_OUTPUTS_DIR.
// Other words that start with a dash are libFuzzer's and mean nothing here.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

#pragma weak LLVMFuzzerCustomMutator

namespace kvist::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kSeed = 0x6b766973745f3031;
constexpr int kMutants = 2000;
constexpr size_t kMaxMutantBytes = size_t{64} << 10;

std::mt19937_64 chance(kSeed);
char running[4096];  // what the signal handler names
Bytes mutant;        // and keeps, if it is no file
bool is_mutant = false;

struct NamedInput {
  std::string name;
  Bytes bytes;
};

void KeepMutant() {
  const char* const folder = std::getenv("TEST_UNDECLARED_OUTPUTS_DIR");
  const std::string path = std::string(folder == nullptr ? "." : folder) + "/failed-mutant";
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(mutant.data()), mutant.size());
  std::fprintf(stderr, "the mutant is in %s\n", path.c_str());
}

void SayWhichInput(int signal_number) {
  std::fprintf(stderr, "while running %s\n", running);
  if (is_mutant) KeepMutant();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

std::vector<NamedInput> ReadInputs(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  std::vector<NamedInput> inputs;
  for (const std::string& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "cannot read %s\n", file.c_str());
      std::exit(1);
    }
    inputs.push_back({file, Bytes(std::istreambuf_iterator<char>(stream), {})});
  }
  return inputs;
}

void Run(const Bytes& bytes, const std::string& name) {
  std::snprintf(running, sizeof(running), "%s", name.c_str());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

bool AllGatesPassed() {
  bool all = true;
  for (const Gate* gate : Gate::All()) {
    std::printf("  %8llu %s\n", static_cast<unsigned long long>(gate->passed()), gate->what());
    if (gate->passed() > 0) continue;
    std::printf("no committed input gets as far as: %s\n", gate->what());
    all = false;
  }
  return all;
}

void RunMutants(const std::vector<NamedInput>& inputs) {
  std::printf("%d mutants, seed %llu\n", kMutants, static_cast<unsigned long long>(kSeed));
  is_mutant = true;
  for (int round = 0; round < kMutants; ++round) {
    const NamedInput& parent = inputs[chance() % inputs.size()];
    mutant = parent.bytes;
    const size_t size = mutant.size(), most = std::min(kMaxMutantBytes, 2 * size + 64);
    mutant.resize(std::max(most, size));
    const auto mutate = [&](size_t now) {
      if (LLVMFuzzerCustomMutator == nullptr) return LLVMFuzzerMutate(mutant.data(), now, mutant.size());
      return LLVMFuzzerCustomMutator(mutant.data(), now, mutant.size(), static_cast<unsigned int>(chance()));
    };
    size_t now = size;
    for (uint64_t i = 0, count = 1 + chance() % 4; i < count; ++i) now = mutate(now);
    mutant.resize(now);
    Run(mutant, "mutant " + std::to_string(round) + " of " + parent.name);
  }
}

int Main(int argc, char** argv) {
  bool test = false;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--test") == 0) test = true;
    if (argv[i][0] != '-') paths.push_back(argv[i]);
  }
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) signal(number, SayWhichInput);
  const std::vector<NamedInput> inputs = ReadInputs(paths);
  if (inputs.empty()) {
    std::fprintf(stderr, "no inputs: name files or folders\n");
    return 1;
  }
  for (const NamedInput& input : inputs) Run(input.bytes, input.name);
  std::printf("%zu inputs\n", inputs.size());
  if (!test) return 0;
  if (!AllGatesPassed()) return 1;
  RunMutants(inputs);
  return 0;
}

}  // namespace
}  // namespace kvist::fuzz

// Plain mutations, for builds without libFuzzer's: they know neither coverage nor dictionaries.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  auto& chance = kvist::fuzz::chance;
  if (size == 0) {
    if (max_size > 0) data[0] = static_cast<uint8_t>(chance());
    return std::min<size_t>(1, max_size);
  }
  const size_t at = chance() % size;
  switch (chance() % 7) {
    case 0:
      data[at] ^= static_cast<uint8_t>(1 << chance() % 8);
      return size;
    case 1:
      data[at] = static_cast<uint8_t>(chance());
      return size;
    case 2: {
      constexpr uint32_t kEdges[] = {0, 1, 63, 64, 0x7fffffff, 0x80000000, 0xffffffc0, 0xffffffff};
      const uint32_t edge = kEdges[chance() % 8];
      std::memcpy(&data[at], &edge, std::min<size_t>(4, size - at));
      return size;
    }
    case 3: {
      const size_t half = (size - at) / 2;
      std::swap_ranges(&data[at], &data[at] + half, &data[at] + half);
      return size;
    }
    case 4: {  // a piece is doubled
      const size_t piece = std::min({size - at, max_size - size, static_cast<size_t>(1 + chance() % 64)});
      std::memmove(&data[at] + piece, &data[at], size - at);
      return size + piece;
    }
    case 5: {  // a piece is taken out
      const size_t piece = std::min(size - at, static_cast<size_t>(1 + chance() % 64));
      std::memmove(&data[at], &data[at] + piece, size - at - piece);
      return size - piece;
    }
    default:
      return chance() % 4 == 0 ? at : size;  // cut
  }
}

int main(int argc, char** argv) { return kvist::fuzz::Main(argc, argv); }
