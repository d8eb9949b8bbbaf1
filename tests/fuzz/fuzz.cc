#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define KVIST_HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVIST_HAS_ASAN 1
#endif
#endif

namespace kvist::fuzz {
namespace {

thread_local uint64_t allocated_bytes = 0;

}  // namespace

uint8_t Input::Byte() {
  if (left_.empty()) return 0;
  const uint8_t byte = left_.front();
  left_.remove_prefix(1);
  return byte;
}

uint64_t Input::Number(int bytes) {
  uint64_t number = 0;
  for (int i = 0; i < bytes; ++i) number |= uint64_t{Byte()} << (8 * i);
  return number;
}

uint64_t Input::Below(uint64_t count) { return (count <= 256 ? Byte() : Number(8)) % count; }

absl::Span<const uint8_t> Input::Bytes(size_t size) {
  const absl::Span<const uint8_t> taken = left_.subspan(0, size);
  left_.remove_prefix(taken.size());
  return taken;
}

std::string Input::Text(size_t size) {
  const absl::Span<const uint8_t> taken = Bytes(size);
  return std::string(taken.begin(), taken.end());
}

ExactBytes::ExactBytes(absl::Span<const uint8_t> bytes) : data_(new uint8_t[bytes.size()]), size_(bytes.size()) {
  std::copy(bytes.begin(), bytes.end(), data_);
}

namespace {
std::vector<Gate*>& MutableGates() {
  static std::vector<Gate*>* const gates = new std::vector<Gate*>;
  return *gates;
}
}  // namespace

Gate::Gate(const char* what) : what_(what) { MutableGates().push_back(this); }
const std::vector<Gate*>& Gate::All() { return MutableGates(); }

AllocationMeter::AllocationMeter() : before_(allocated_bytes) {}
uint64_t AllocationMeter::bytes() const { return allocated_bytes - before_; }

void Broken(const char* file, int line, const char* condition, const std::string& why) {
  std::fprintf(stderr, "%s:%d: does not hold: %s\n  %s\n", file, line, condition, why.c_str());
  std::abort();
}

}  // namespace kvist::fuzz

#if defined(KVIST_HAS_ASAN)

// The sanitizer owns the allocator and tells of each call.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t),
                                                         void (*free_hook)(const volatile void*));
namespace {
const int hooked = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t size_bytes) { kvist::fuzz::allocated_bytes += size_bytes; },
    [](const volatile void*) {});
}  // namespace

#else

void* operator new(size_t size_bytes) {
  kvist::fuzz::allocated_bytes += size_bytes;
  if (void* const memory = std::malloc(size_bytes == 0 ? 1 : size_bytes)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

#endif
