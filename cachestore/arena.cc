#include "cachestore/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kSmallestPage = 4096;

uint64_t RoundUp(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

// Maps `mapped_bytes` at a multiple of 2 MiB: maps one huge page more, then gives the ends back.
uint8_t* MapAligned(uint64_t mapped_bytes) {
  const uint64_t wide_bytes = mapped_bytes + kHugePage;
  void* wide = mmap(nullptr, wide_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) return nullptr;
  const uint64_t start = reinterpret_cast<uint64_t>(wide);
  const uint64_t aligned = RoundUp(start, kHugePage);
  if (aligned > start) munmap(wide, aligned - start);
  const uint64_t tail = start + wide_bytes - (aligned + mapped_bytes);
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + mapped_bytes), tail);
  return reinterpret_cast<uint8_t*>(aligned);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Arena>> Arena::Create(const Options& options) {
  const uint64_t mapped_bytes = RoundUp(options.size_bytes, kHugePage);
  uint8_t* base = MapAligned(mapped_bytes);
  if (base == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", options.size_bytes, " bytes for the arena: ", std::strerror(errno)));
  }
  std::unique_ptr<Arena> arena(new Arena(base, options.size_bytes, mapped_bytes));
  if (options.huge_pages) arena->huge_pages_advised_ = madvise(base, mapped_bytes, MADV_HUGEPAGE) == 0;
  if (options.prefault) {
    if (absl::Status status = arena->Prefault(); !status.ok()) return status;
  }
  return arena;
}

Arena::~Arena() { munmap(base_, mapped_bytes_); }

absl::Status Arena::Prefault() {
  const uint64_t bytes = RoundUp(size_bytes_, kSmallestPage);
  if (madvise(base_, bytes, MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno != EINVAL) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot fill ", size_bytes_, " bytes of the arena with pages: ", std::strerror(errno)));
  }
  // Kernels before 5.14 do not know the advice: write one byte of every page.
  for (uint64_t offset = 0; offset < bytes; offset += kSmallestPage) {
    *const_cast<volatile uint8_t*>(base_ + offset) = 0;
  }
  return absl::OkStatus();
}

uint64_t Arena::HugePageBytes() const {
  const uint64_t first = reinterpret_cast<uint64_t>(base_);
  const uint64_t last = first + mapped_bytes_;
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  uint64_t huge_bytes = 0;
  while (std::getline(smaps, line)) {
    unsigned long start = 0, end = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2) {
      inside = start < last && end > first;
    } else if (inside && std::sscanf(line.c_str(), "AnonHugePages: %lu kB", &kib) == 1) {
      huge_bytes += uint64_t{kib} << 10;
    }
  }
  return std::min(huge_bytes, mapped_bytes_);  // the kernel may have joined neighbouring mappings into one line
}

}  // namespace kvist
