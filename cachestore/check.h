// Assertions that stay on in production: a store that has lost count of its memory must stop, not hand out wrong bytes.
#ifndef KVIST_CACHESTORE_CHECK_H_
#define KVIST_CACHESTORE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace kvist {

inline void Check(bool holds, const char* rule) {
  if (__builtin_expect(holds, true)) return;
  std::fprintf(stderr, "kvist cachestore: broken rule: %s\n", rule);
  std::abort();
}

}  // namespace kvist

#endif  // KVIST_CACHESTORE_CHECK_H_
