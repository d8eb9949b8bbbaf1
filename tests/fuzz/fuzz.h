// What a fuzz target is written with: bytes taken apart into choices, properties that must hold, gates that show how
// far inputs get, and a meter of memory.
//
// A target defines LLVMFuzzerTestOneInput. Under --config=fuzz libFuzzer calls it; in a normal build replay_main.cc
// does, with the committed inputs and some mutants of them.
//
// Threads a target runs in one thread.
#ifndef KVIST_TESTS_FUZZ_FUZZ_H_
#define KVIST_TESTS_FUZZ_FUZZ_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace kvist::fuzz {

// Takes an input apart from the front. An input that has ended gives zeros, so every input is a whole script.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(data, size) {}

  size_t left() const { return left_.size(); }
  uint8_t Byte();
  uint64_t Number(int bytes);  // little-endian
  // 0 to count - 1. REQUIRES: count > 0. Takes one byte for counts up to 256, else eight.
  uint64_t Below(uint64_t count);
  bool Flag() { return (Byte() & 1) != 0; }
  // Up to `size` bytes: fewer if the input ends.
  absl::Span<const uint8_t> Bytes(size_t size);
  absl::Span<const uint8_t> Rest() { return Bytes(left_.size()); }
  std::string Text(size_t size);  // as Bytes
  std::string RestText() { return Text(left_.size()); }

 private:
  absl::Span<const uint8_t> left_;
};

// A copy in an allocation of exactly its size, so that a sanitizer sees the first byte beyond.
class ExactBytes {
 public:
  explicit ExactBytes(absl::Span<const uint8_t> bytes);
  ~ExactBytes() { delete[] data_; }
  ExactBytes(const ExactBytes&) = delete;
  ExactBytes& operator=(const ExactBytes&) = delete;
  absl::Span<const uint8_t> span() const { return {data_, size_}; }

 private:
  uint8_t* const data_;
  const size_t size_;
};

// A place that inputs must be able to reach. The replay fails if no committed input passes a gate of its target: the
// fuzzing would have gone blind.
class Gate {
 public:
  explicit Gate(const char* what);  // of static lifetime
  void Pass() { ++passed_; }
  const char* what() const { return what_; }
  uint64_t passed() const { return passed_; }
  static const std::vector<Gate*>& All();

 private:
  const char* const what_;
  uint64_t passed_ = 0;
};

// Bytes that this thread has taken from the allocator since construction, given back or not.
class AllocationMeter {
 public:
  AllocationMeter();
  uint64_t bytes() const;

 private:
  const uint64_t before_;
};

// Says what does not hold, and ends the process so that the fuzzer keeps the input.
[[noreturn]] void Broken(const char* file, int line, const char* condition, const std::string& why);

}  // namespace kvist::fuzz

// A property. What follows the condition is told when it does not hold: anything that absl::StrCat takes.
#define KVIST_HOLDS(condition, ...) \
  ((condition) ? void() : ::kvist::fuzz::Broken(__FILE__, __LINE__, #condition, ::absl::StrCat(__VA_ARGS__)))

// Both are libFuzzer's: what a target defines, and what the driver offers to a target's own mutator.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed);
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

#endif  // KVIST_TESTS_FUZZ_FUZZ_H_
