// A profile ready for arithmetic: matrices as numbers, frequencies as coder tables. What EncodeOptions and Decode take.
//
// Shapes  d = heads * head_dim. Of the two sides 0 is K and 1 is V.
// Units   counts.
// Threads immutable after PrepareEncoding (or after Parse, for readers): any number of threads may use one.
// Errors  Parse: those of ProfileFile::Read. PrepareEncoding: InvalidArgument names a matrix that has no inverse.
// Why     A reader needs four bytes for each number of the file and no more; the encoder's inverses take as much again
//         and seconds of work, so that only those pay who encode.
#ifndef KVIST_KERNELS_Q_PROFILE_H_
#define KVIST_KERNELS_Q_PROFILE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/q/profile_file.h"
#include "kernels/q/rans.h"

namespace kvist {

class Profile {
 public:
  struct Side {
    std::vector<float> mean;           // [d]
    std::vector<float> predictor;      // [sources][d], sources as ProfileFacts::Sources
    std::vector<float> synthesis;      // [d][d]
    size_t coded_rows = 0;             // of synthesis, the first ones
    std::vector<int8_t> base_classes;  // [d]
    std::vector<float> analysis;       // [d][coded_rows]: the inverse of synthesis; empty before PrepareEncoding
    std::vector<float> own, around;    // importance
    float sensitivity = 0;             // what errors as large as the values would cost answers
  };
  struct Layer {
    std::array<Side, 2> sides;
    std::vector<float> deviations;  // [2d], K then V
  };

  static absl::StatusOr<Profile> Parse(absl::Span<const uint8_t> bytes);
  absl::Status PrepareEncoding();
  bool CanEncode() const { return can_encode_; }

  const ProfileFacts& facts() const { return facts_; }
  const std::array<uint8_t, 16>& digest() const { return digest_; }  // first half of the file's SHA-256
  const Layer& layer(uint32_t layer) const { return layers_[layer]; }
  const RansTable& class_table(size_t c) const { return class_tables_[c]; }
  const RansTable& step_table(size_t kv) const { return step_tables_[kv]; }
  const RansTable& shift_table(size_t kv) const { return shift_tables_[kv]; }

 private:
  ProfileFacts facts_;
  std::array<uint8_t, 16> digest_{};
  std::vector<Layer> layers_;
  std::vector<RansTable> class_tables_;  // [kClasses], symbols q + 15, then the escape
  std::array<RansTable, 2> step_tables_, shift_tables_;
  bool can_encode_ = false;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_PROFILE_H_
