#include "kernels/q/stream_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/header.h"

namespace kvist {

absl::StatusOr<absl::Span<const uint8_t>> GroupStream(absl::Span<const uint8_t> piece, size_t group, size_t groups) {
  if (groups == 1 || piece.empty()) return piece;
  const size_t table_bytes = groups * kStreamSizeBytes;
  if (piece.size() < table_bytes) {
    return absl::DataLossError(
        absl::StrCat("a stream piece of ", piece.size(), " bytes; the table of its ", groups, " has ", table_bytes));
  }
  uint64_t end = table_bytes, first = 0, size = 0;
  for (size_t i = 0; i < groups; ++i) {
    const uint64_t bytes = LoadLe(piece.data() + i * kStreamSizeBytes, kStreamSizeBytes);
    if (i == group) {
      first = end;
      size = bytes;
    }
    end += bytes;
  }
  if (end == piece.size()) return piece.subspan(first, size);
  return absl::DataLossError(absl::StrCat("a stream piece of ", piece.size(), " bytes; its table says ", end));
}

std::vector<uint8_t> JoinStreams(const std::vector<std::vector<uint8_t>>& streams) {
  const auto is_empty = [](const std::vector<uint8_t>& stream) { return stream.empty(); };
  if (streams.size() == 1) return streams[0];
  if (std::all_of(streams.begin(), streams.end(), is_empty)) return {};
  std::vector<uint8_t> piece(streams.size() * kStreamSizeBytes);
  for (size_t i = 0; i < streams.size(); ++i) {
    StoreLe(streams[i].size(), kStreamSizeBytes, &piece[i * kStreamSizeBytes]);
    piece.insert(piece.end(), streams[i].begin(), streams[i].end());
  }
  return piece;
}

}  // namespace kvist
