// Some heads of a profile ready for arithmetic: what decodes and encodes them as if the model had no others.
//
// Shapes  d = heads of the group * head_dim. Of the two sides 0 is K and 1 is V.
// Units   counts.
// Threads immutable after PrepareEncoding (or from the start, for readers): any number of threads may use one.
// Errors  PrepareEncoding: InvalidArgument names a matrix that has no inverse.
// Why     Matrices of all channels of a layer would cost the square of their number, in the file as in time, and heads that lie
//         far apart have little to say of each other. A reader needs four bytes for each number of the file, and eight more for
//         each of a predictor that is not 0: most are, and only the others cost time; the entropy tables take 1 MB. The
//         encoder's inverses take seconds of work, so that only those pay who encode.
#ifndef KVIST_KERNELS_Q_HEAD_GROUP_H_
#define KVIST_KERNELS_Q_HEAD_GROUP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/q/aligned.h"
#include "kernels/q/profile_file.h"
#include "kernels/q/rans.h"

namespace kvist {

inline constexpr size_t kPredictorBlock =
    64;  // rows of a block, fewer at the end of a source: its values stay in a cache

class HeadGroup {
 public:
  // The numbers of a matrix that are not 0, by blocks of rows, of each block column after column.
  struct SparseMatrix {
    struct Entry {
      float value;
      uint32_t row;  // of the block
    };
    std::vector<Entry> entries;
    std::vector<uint32_t> ends;  // [blocks][d]: where in entries a column of a block ends
  };
  struct Side {
    std::vector<float> mean;           // [d]
    AlignedFloats predictor;           // [sources][d], sources as ProfileFacts::Sources
    AlignedFloats synthesis;           // [d][d]
    size_t coded_rows = 0;             // of synthesis, the first ones
    std::vector<int8_t> base_classes;  // [d]
    AlignedFloats analysis = {};       // [d][d]: the inverse of synthesis; empty before PrepareEncoding
    SparseMatrix sparse_predictor = {};
    std::vector<float> own, around;  // importance
    std::vector<float> sensitivity;  // [heads]: what errors as large as a head's values would cost answers
  };
  struct Layer {
    std::array<Side, 2> sides;
    std::vector<float> deviations;  // [2d], K then V
  };

  // `facts`: ProfileFacts::OfGroup. Empties `from` as it goes: the file's form is not needed beside the numbers.
  HeadGroup(ProfileFacts facts, ProfileGroup&& from);

  absl::Status PrepareEncoding();

  const ProfileFacts& facts() const { return facts_; }  // of these heads alone
  const Layer& layer(uint32_t layer) const { return layers_[layer]; }
  const RansTable& class_table(size_t c) const { return class_tables_[c]; }
  const RansSteps& class_steps() const { return class_steps_; }
  const RansTable& step_table(size_t kv) const { return step_tables_[kv]; }
  const RansTable& shift_table(size_t kv) const { return shift_tables_[kv]; }

 private:
  ProfileFacts facts_;
  std::vector<Layer> layers_;
  std::vector<RansTable> class_tables_;  // [kClasses], symbols q + 15, then the escape
  RansSteps class_steps_;
  std::array<RansTable, 2> step_tables_, shift_tables_;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_HEAD_GROUP_H_
