#include "kernels/pieces.h"

#include <xxhash.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/header.h"

namespace kvist {

Pieces::Pieces(uint64_t prefix_bytes, int planes, uint32_t layers, const std::vector<size_t>& expected_bytes,
               absl::Span<uint8_t> out)
    : prefix_bytes_(prefix_bytes),
      planes_(planes),
      layers_(layers),
      out_(out),
      expected_end_(prefix_bytes),
      pieces_(size_t(planes) * layers) {
  for (size_t i = 0; i < pieces_.size(); ++i) {
    pieces_[i].offset = AlignPlane(expected_end_);
    expected_end_ = pieces_[i].offset + expected_bytes[i];
  }
}

void Pieces::Keep(int plane, uint32_t layer, std::vector<uint8_t> bytes) {
  Piece& piece = At(plane, layer);
  piece.size = bytes.size();
  piece.kept = std::move(bytes);
}

void Pieces::FinishLayer(uint32_t layer) {
  for (int plane = 0; plane < planes_; ++plane) {
    Piece& piece = At(plane, layer);
    const uint8_t* bytes = piece.kept.empty() ? out_.data() + piece.offset : piece.kept.data();
    piece.hash = XXH3_64bits(bytes, piece.size);
  }
}

// Sides are never shorter and codes never longer than expected, so the later a piece is, the less it moves towards the
// block's end, or the more towards its beginning: first those that move towards it, in order, then the others, the last one
// first; none is overwritten before it has moved.
void Pieces::MoveCodes(const std::vector<uint64_t>& offsets) {
  const auto move = [&](size_t i) {
    std::memmove(out_.data() + offsets[i], out_.data() + pieces_[i].offset, pieces_[i].size);
  };
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i].kept.empty() && offsets[i] < pieces_[i].offset) move(i);
  }
  for (size_t i = pieces_.size(); i-- > 0;) {
    if (pieces_[i].kept.empty() && offsets[i] > pieces_[i].offset) move(i);
  }
}

absl::StatusOr<uint64_t> Pieces::Finish() {
  std::vector<uint64_t> offsets;
  uint64_t end = prefix_bytes_;
  for (const Piece& piece : pieces_) {
    offsets.push_back(AlignPlane(end));
    end = offsets.back() + piece.size;
  }
  if (end > out_.size()) {
    return absl::ResourceExhaustedError(absl::StrCat("block of ", end, " bytes; the output holds ", out_.size()));
  }
  MoveCodes(offsets);
  uint64_t at = prefix_bytes_;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    Piece& piece = pieces_[i];
    piece.offset = offsets[i];
    std::memset(out_.data() + at, 0, piece.offset - at);
    if (!piece.kept.empty()) std::memcpy(out_.data() + piece.offset, piece.kept.data(), piece.size);
    at = piece.offset + piece.size;
    uint8_t* entry = out_.data() + kHeaderBytes + i * kPlaneEntryBytes;
    StoreLe(piece.offset, 4, entry);
    StoreLe(piece.size, 4, entry + 4);
    StoreLe(piece.hash, 8, entry + 8);
  }
  return end;
}

}  // namespace kvist
