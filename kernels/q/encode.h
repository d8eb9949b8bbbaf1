// Encodes a block of codec q layer by layer: the pieces of each, for Encode to put together.
//
// Threads as a plain object; layers in order, for each is predicted from what readers will have of those before.
// Why     A tile below its floor is stored beside the stream, and what the stream then says of its channels is the
//         prediction, which costs next to nothing: the layer is coded again without it. A layer that would take more than its
//         values has them all beside the stream, and an empty stream, so that no block is larger than raw16's by more than
//         its modes.
#ifndef KVIST_KERNELS_Q_ENCODE_H_
#define KVIST_KERNELS_Q_ENCODE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/codec.h"
#include "kernels/q/coefficients.h"
#include "kernels/q/importance.h"
#include "kernels/q/reconstruct.h"
#include "kernels/tile.h"

namespace kvist {

// InvalidArgument: no profile, or one that is not of this shape or not of this identity. FailedPrecondition: one that was
// not prepared for encoding.
absl::Status CheckEncodesQ(const EncodeOptions& options, const BlockShape& shape);
absl::Status CheckIdentityQ(const BlockIdentity& identity, const Profile& profile);

class QEncoder {
 public:
  struct Pieces {
    std::vector<uint8_t> side, stream;
    uint32_t raised_tiles = 0;
    double worst_db = 0;
  };

  // REQUIRES: what CheckEncodesQ asks for; all arguments outlive the encoder.
  QEncoder(const BlockIdentity& identity, const BlockShape& shape, const ConstPages& pages,
           const EncodeOptions& options, const QFunctions& functions);

  Pieces EncodeLayer(uint32_t layer);

 private:
  // A layer's values and what has been made of them; what readers will have of it is in history_.Next().
  struct Work {
    uint32_t layer;
    LayerValues values;
    LayerCoefficients coefficients;
    std::vector<TileMode> modes;                // [2 * heads]
    std::vector<std::vector<uint8_t>> records;  // [2 * heads]
    std::vector<double> sqnr_db;                // [2 * heads]
  };

  LayerValues Load(uint32_t layer) const;
  bool IsFinite(size_t kv, uint32_t layer, size_t head) const;
  int StepOf(size_t kv, uint32_t layer, size_t token) const;
  void CodeSide(Work& work, size_t kv);
  void TransformResiduals(const Work& work, size_t kv);
  void CodeRow(Work& work, size_t kv, size_t token);
  void Code(Work& work);
  void MakeRecord(Work& work, size_t tile) const;
  void Measure(Work& work, size_t tile) const;
  bool RaiseTiles(Work& work) const;
  void StoreValues(Work& work);
  Pieces PiecesOf(const Work& work) const;

  const BlockShape shape_;
  const ConstPages& pages_;
  const Profile& profile_;
  const QFunctions& functions_;
  const uint32_t first_position_;
  const size_t sinks_;
  const float floor_db_;
  const TileSizes sizes_;
  const Angles angles_;
  Importance importance_;
  History history_;
  const CoefficientWriter writer_;
  SparseRows residuals_, factors_;  // of one side: what is transformed, and what it is coded as
  AlignedFloats transformed_;       // [tokens][d]
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_ENCODE_H_
