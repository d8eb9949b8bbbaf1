// What stands in for the GPU's programs where the build has no CUDA.
#include <cstdio>

int main() {
  std::fprintf(stderr, "built without CUDA (--config=cpu): there is nothing to run\n");
  return 3;
}
