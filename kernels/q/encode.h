// Encodes a block of codec q layer by layer: the pieces of each, for Encode to put together.
//
// Threads as a plain object; layers in order.
// Why     Head groups are coded apart (encode_group.h); here their tiles and streams become one layer's.
#ifndef KVIST_KERNELS_Q_ENCODE_H_
#define KVIST_KERNELS_Q_ENCODE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/codec.h"
#include "kernels/q/encode_group.h"
#include "kernels/q/reconstruct.h"

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
  QEncoder(const QEncoder&) = delete;
  QEncoder& operator=(const QEncoder&) = delete;

  Pieces EncodeLayer(uint32_t layer);

 private:
  const Angles angles_;
  std::vector<GroupEncoder> groups_;
};

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_ENCODE_H_
