// A layer's stream piece as the streams of its head groups (FORMAT.md, "q").
//
// Threads pure functions.
// Errors  GroupStream: DataLoss  a table that does not fit into the piece or does not fill it: both sizes.
// Why     With their sizes in front, groups can be decoded apart, side by side, and one whose tiles are all stored beside the
//         stream costs four bytes. One group needs no table: the piece is its stream.
#ifndef KVIST_KERNELS_Q_STREAM_TABLE_H_
#define KVIST_KERNELS_Q_STREAM_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvist {

inline constexpr size_t kStreamSizeBytes = 4;  // of each of several groups

// REQUIRES: group < groups. An empty stream stands for zeros.
absl::StatusOr<absl::Span<const uint8_t>> GroupStream(absl::Span<const uint8_t> piece, size_t group, size_t groups);

// The piece of all groups' streams.
std::vector<uint8_t> JoinStreams(const std::vector<std::vector<uint8_t>>& streams);

}  // namespace kvist

#endif  // KVIST_KERNELS_Q_STREAM_TABLE_H_
