// Encodes one head group of a block of codec q layer by layer, as if the block had no other heads.
//
// Shapes  tiles of a layer [2 * heads of the group]: K, then V.
// Threads as a plain object; layers in order, for each is predicted from what readers will have of those before.
// Why     A tile below its floor is stored beside the stream, and what the stream then says of its channels is the
//         prediction, which costs next to nothing: the layer is coded again without it. A group that would take more than its
//         values has them all beside the stream, and an empty stream, so that no block is larger than raw16's by more than
//         its modes and its table of streams.
#ifndef KVIST_KERNELS_Q_ENCODE_GROUP_H_
#define KVIST_KERNELS_Q_ENCODE_GROUP_H_

#include <cstdint>
#include <vector>

#include "kernels/codec.h"
#include "kernels/q/coefficients.h"
#include "kernels/q/importance.h"
#include "kernels/q/reconstruct.h"
#include "kernels/tile.h"

namespace kvist {

// What a block will have of one layer of the group.
struct CodedLayer {
  std::vector<TileMode> modes;  // by tile, as the next two
  std::vector<std::vector<uint8_t>> records;
  std::vector<double> sqnr_db;
  std::vector<uint8_t> stream;  // empty: zeros
};

class GroupEncoder {
 public:
  // `shape` and `pages`: of the group's heads alone. REQUIRES: a group prepared for encoding, and `angles` of the block; these
  // and `functions` outlive the encoder.
  GroupEncoder(const HeadGroup& group, const BlockShape& shape, const ConstPages& pages, const Angles& angles,
               uint32_t first_position, float floor_db, const QFunctions& functions);

  CodedLayer EncodeLayer(uint32_t layer);

 private:
  // A layer's values and what has been made of them; what readers will have of it is in history_.Next().
  struct Work {
    uint32_t layer;
    LayerValues values;
    LayerCoefficients coefficients;
    CodedLayer coded;
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
  void WriteStream(Work& work) const;
  void StoreValues(Work& work);
  bool IsLargerThanValues(const CodedLayer& coded) const;

  const HeadGroup& group_;
  const BlockShape shape_;
  const ConstPages pages_;
  const Angles& angles_;
  const QFunctions& functions_;
  const uint32_t first_position_;
  const size_t sinks_;
  const float floor_db_;
  const TileSizes sizes_;
  Importance importance_;
  History history_;
  const CoefficientWriter writer_;
  SparseRows residuals_, factors_;  // of one side: what is transformed, and what it is coded as
  AlignedFloats transformed_;       // [tokens][d]
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_ENCODE_GROUP_H_
