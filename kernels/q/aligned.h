// Numbers that vectors load whole: a load across two cache lines takes twice as long.
#ifndef KVIST_KERNELS_Q_ALIGNED_H_
#define KVIST_KERNELS_Q_ALIGNED_H_

#include <cstddef>
#include <new>
#include <vector>

namespace kvist {

inline constexpr std::align_val_t kVectorAlignment{64};

template <typename T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <typename U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kVectorAlignment)); }
  void deallocate(T* memory, size_t) { ::operator delete(memory, kVectorAlignment); }
  bool operator==(const AlignedAllocator&) const = default;
};

using AlignedFloats = std::vector<float, AlignedAllocator<float>>;

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_ALIGNED_H_
