// One span of memory, taken whole at start: a tier that has started cannot fail for want of memory later.
//
// Units   bytes.
// Threads constant after Create.
// Errors  ResourceExhausted  the kernel does not give the memory; the message says how much was asked and why not.
//
// Why 2 MiB alignment: with huge pages a block of 1 MiB costs one TLB entry instead of 256, and the kernel only backs
// aligned ranges with them.
#ifndef KVIST_CACHESTORE_ARENA_H_
#define KVIST_CACHESTORE_ARENA_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace kvist {

class Arena {
 public:
  struct Options {
    uint64_t size_bytes = 0;
    bool huge_pages = true;  // ask for them; a kernel that refuses is no error
    bool prefault = false;   // touch every page now: slower start, no page faults and no surprise later
  };

  static absl::StatusOr<std::unique_ptr<Arena>> Create(const Options& options);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  uint8_t* base() const { return base_; }
  uint64_t size_bytes() const { return size_bytes_; }
  // Whether the kernel took the advice. It backs pages with huge ones as they are touched, and only when it has some.
  bool huge_pages_advised() const { return huge_pages_advised_; }
  // How much is backed by huge pages at this moment, by /proc/self/smaps. Milliseconds: for start-up and metrics.
  uint64_t HugePageBytes() const;

 private:
  Arena(uint8_t* base, uint64_t size_bytes, uint64_t mapped_bytes)
      : base_(base), size_bytes_(size_bytes), mapped_bytes_(mapped_bytes) {}
  absl::Status Prefault();

  uint8_t* const base_;
  const uint64_t size_bytes_;
  const uint64_t mapped_bytes_;  // size_bytes_ rounded up to whole huge pages
  bool huge_pages_advised_ = false;
};

}  // namespace kvist

#endif  // KVIST_CACHESTORE_ARENA_H_
