#include "kernels/encode_floor.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/header.h"

namespace kvist {
namespace {

constexpr float kMaxFloorDb = 200;         // above any lossy tile: everything raw16
constexpr double kLeastSignal = 0x1p-100;  // sums of squares below this have lost bits to underflow
constexpr uint8_t kTileSqnrExact = 255;

float DefaultFloorDb(Codec codec, int bits) {
  if (codec == Codec::kI8) return kDefaultFloorDbI8;
  if (codec == Codec::kTrellis) return bits == 2 ? kDefaultFloorDbTrellis2 : kDefaultFloorDbTrellis3;
  if (codec != Codec::kLadder) return 0.0f;
  if (bits == 8) return kDefaultFloorDbLadder8;
  if (bits == 3) return kDefaultFloorDbLadder3;
  return bits == 2 ? kDefaultFloorDbLadder2 : kDefaultFloorDbLadder;
}

uint16_t InHeader(float floor_db) { return uint16_t(std::ceil(floor_db * 256)); }

}  // namespace

absl::StatusOr<uint16_t> FloorOf(const EncodeOptions& options, int least_bits) {
  if (CodecName(options.codec) == "unknown") {
    return absl::InvalidArgumentError(absl::StrCat("codec ", int(options.codec), "; ", KnownCodecs()));
  }
  if (!(options.floor_db >= 0 && options.floor_db <= kMaxFloorDb)) {
    return absl::InvalidArgumentError(
        absl::StrCat("floor_db ", options.floor_db, "; allowed are 0 (the codec's own) to ", kMaxFloorDb));
  }
  return InHeader(options.floor_db > 0 ? options.floor_db : DefaultFloorDb(options.codec, least_bits));
}

float TileFloorDb(const EncodeOptions& options, int bits) {
  return InHeader(options.floor_db > 0 ? options.floor_db : DefaultFloorDb(options.codec, bits)) / 256.0f;
}

double TileSqnrDb(double signal, double noise, bool identical, bool finite) {
  if (identical) return INFINITY;
  if (!finite || !(signal > kLeastSignal) || !std::isfinite(signal) || !(noise > 0)) return -INFINITY;
  return 10 * std::log10(signal / noise);
}

uint8_t TileSqnr(double db) {
  if (std::isinf(db) && db > 0) return kTileSqnrExact;
  return uint8_t(std::clamp(std::floor(4 * db), 0.0, 254.0));
}

uint16_t BlockSqnr(double db) {
  if (std::isinf(db) && db > 0) return kSqnrExact;
  return uint16_t(std::clamp(std::floor(256 * db), 0.0, 65534.0));
}

}  // namespace kvist
