#include "tests/simulation/fiber.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define KVIST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVIST_ASAN 1
#endif
#endif
#ifdef KVIST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace kvist::simulation {
namespace {

constexpr int kMostFrames = 24;

size_t PageBytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

void PrintFrame(int depth, uintptr_t address) {
  Dl_info where = {};
  const bool known = dladdr(reinterpret_cast<void*>(address), &where) != 0;
  if (!known || where.dli_sname == nullptr) {
    const uintptr_t base = known ? reinterpret_cast<uintptr_t>(where.dli_fbase) : 0;
    std::fprintf(stderr, "      #%d %s+0x%zx\n", depth, known ? where.dli_fname : "?", size_t{address - base});
    return;
  }
  int status = 0;
  char* name = abi::__cxa_demangle(where.dli_sname, nullptr, nullptr, &status);
  std::fprintf(stderr, "      #%d %.140s\n", depth, status == 0 ? name : where.dli_sname);
  std::free(name);
}

}  // namespace

GuardedStack::GuardedStack(size_t bytes)
    : size_bytes_((bytes + PageBytes() - 1) / PageBytes() * PageBytes()),
      mapping_(mmap(nullptr, size_bytes_ + PageBytes(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0)),
      bottom_(static_cast<char*>(mapping_) + PageBytes()) {
  if (mapping_ == MAP_FAILED || mprotect(mapping_, PageBytes(), PROT_NONE) != 0) {
    std::perror("simulation: no memory for a fiber's stack");
    std::_Exit(1);
  }
}

GuardedStack::~GuardedStack() { munmap(mapping_, size_bytes_ + PageBytes()); }

void Fiber::SwitchTo(Fiber* next, bool ends) {
#ifdef KVIST_ASAN
  const void* bottom = next->stack ? next->stack->bottom() : next->thread_bottom;
  const size_t bytes = next->stack ? next->stack->size_bytes() : next->thread_bytes;
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack, bottom, bytes);
#else
  (void)ends;
#endif
  swapcontext(&context, &next->context);
  Arrive(this, nullptr);
}

void Fiber::Arrive(Fiber* self, Fiber* thread) {
#ifdef KVIST_ASAN
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &bytes);
  if (thread != nullptr && thread->thread_bottom == nullptr) {
    thread->thread_bottom = bottom;
    thread->thread_bytes = bytes;
  }
#else
  (void)self;
  (void)thread;
#endif
}

void Fiber::PrintStack() const {
#if defined(__x86_64__)
  if (!stack) return;
  const auto lowest = reinterpret_cast<uintptr_t>(stack->bottom());
  const uintptr_t highest = lowest + stack->size_bytes() - 2 * sizeof(uintptr_t);
  auto frame = static_cast<uintptr_t>(context.uc_mcontext.gregs[REG_RBP]);
  for (int depth = 0; depth < kMostFrames && frame >= lowest && frame <= highest; ++depth) {
    const auto* saved = reinterpret_cast<const uintptr_t*>(frame);
    PrintFrame(depth, saved[1]);
    if (saved[0] <= frame) return;
    frame = saved[0];
  }
#endif
}

}  // namespace kvist::simulation
