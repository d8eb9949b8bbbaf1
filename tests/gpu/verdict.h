// What the programs of the bundle exit with, and how they say why.
#ifndef KVIST_TESTS_GPU_VERDICT_H_
#define KVIST_TESTS_GPU_VERDICT_H_

#include <cstdio>
#include <string>

namespace kvist::testing {

inline constexpr int kRight = 0, kWrong = 1, kSlow = 2, kNotHere = 3;

inline int Wrong(const std::string& why) {
  std::fprintf(stderr, "WRONG: %s\n", why.c_str());
  return kWrong;
}
inline int NotHere(const std::string& why) {
  std::fprintf(stderr, "not run: %s\n", why.c_str());
  return kNotHere;
}

}  // namespace kvist::testing

#endif  // KVIST_TESTS_GPU_VERDICT_H_
