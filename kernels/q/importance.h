// How finely each token should be coded, as a profile has learned it: the logarithm of a weight for each token, layer and
// side. Only the encoder asks; any other choice of steps decodes as well.
//
// Shapes  values [tokens][d] of each side, centred; tokens a multiple of 16, as of every block. Of the two sides 0 is K and 1 is V.
// Units   natural logarithms, about 0 in the mean.
// Threads as a plain object.
// Why     Two stages: from the token's own values in a layer, then from what all layers said of it. What the lab measured
//         with both is in the profile's notes.
#ifndef KVIST_KERNELS_Q_IMPORTANCE_H_
#define KVIST_KERNELS_Q_IMPORTANCE_H_

#include <array>
#include <cstddef>
#include <vector>

#include "kernels/q/head_group.h"
#include "kernels/q/reconstruct.h"

namespace kvist {

class Importance {
 public:
  Importance(const HeadGroup& group, size_t tokens);

  // REQUIRES: each layer once, before the first call of At.
  void AddLayer(uint32_t layer, const LayerValues& values);
  float At(size_t kv, uint32_t layer, size_t token) const;

 private:
  float First(size_t kv, uint32_t layer, size_t token) const { return first_[kv][size_t{layer} * tokens_ + token]; }

  const HeadGroup& group_;
  const size_t tokens_;
  std::array<std::vector<float>, 2> first_;  // [layers][tokens]
  std::array<std::vector<float>, 2> sums_;   // [tokens], over layers
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_IMPORTANCE_H_
