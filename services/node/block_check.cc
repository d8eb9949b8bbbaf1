#include "services/node/block_check.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

std::string_view AsText(absl::Span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The first `size_bytes` of the pieces in one run: `copy` is filled only if they are scattered.
absl::Span<const uint8_t> Contiguous(Pieces pieces, size_t size_bytes, std::vector<uint8_t>* copy) {
  if (pieces.empty()) return {};
  if (pieces[0].size() >= size_bytes) return pieces[0].subspan(0, size_bytes);
  copy->reserve(size_bytes);
  for (absl::Span<const uint8_t> piece : pieces) {
    const size_t taken = std::min(piece.size(), size_bytes - copy->size());
    copy->insert(copy->end(), piece.begin(), piece.begin() + taken);
  }
  return *copy;
}

std::string HexText(std::string_view bytes) { return absl::BytesToHexString({bytes.data(), bytes.size()}); }

// No checksum covers the bytes between the pieces; encoders write zeros there. Anything else may be what another block
// left in the slab: it would be stored, and sent to whoever reads this one.
absl::Status CheckPadding(const BlockView& view) {
  uint64_t end = kHeaderBytes + uint64_t{view.shape().layers} * view.planes() * kPlaneEntryBytes;
  for (int plane = 0; plane < view.planes(); ++plane) {
    for (uint32_t layer = 0; layer < view.shape().layers; ++layer) {
      const PlaneEntry entry = view.Plane(plane, layer);
      const absl::Span<const uint8_t> padding = view.bytes().subspan(end, entry.offset - end);
      if (std::any_of(padding.begin(), padding.end(), [](uint8_t byte) { return byte != 0; })) {
        return absl::InvalidArgumentError(absl::StrCat("the bytes before plane ", plane, " of layer ", layer,
                                                       " are padding and not zero: write the whole block"));
      }
      end = uint64_t{entry.offset} + entry.size_bytes;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBeforeCommit(Pieces pieces, size_t size_bytes, const Key& key, std::string_view namespace_digest,
                               std::string_view* cause) {
  std::vector<uint8_t> copy;
  *cause = "format";
  absl::StatusOr<BlockView> view = BlockView::Parse(Contiguous(pieces, size_bytes, &copy));
  if (!view.ok()) {
    if (view.status().code() == absl::StatusCode::kDataLoss) *cause = "checksum";
    return view.status();
  }
  if (view->block_bytes() != size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the block is cut off: its header says ", view->block_bytes(), " bytes, ", size_bytes, " came"));
  }
  *cause = "identity";
  const std::string_view block_key = AsText(view->identity().key),
                         block_namespace = AsText(view->identity().namespace_digest);
  if (block_key != AsText(key.bytes)) {
    return absl::FailedPreconditionError(absl::StrCat("the block was made for key ", HexText(block_key), ", not for ",
                                                      key.Hex(), " under which it was put"));
  }
  if (!namespace_digest.empty() && block_namespace != namespace_digest) {
    return absl::FailedPreconditionError(absl::StrCat("the block was made for namespace ", HexText(block_namespace),
                                                      ", not for ", HexText(namespace_digest),
                                                      " under which it was put"));
  }
  *cause = "checksum";
  if (absl::Status intact = view->Verify(0, view->shape().layers, 0); !intact.ok()) return intact;
  *cause = "format";
  return CheckPadding(*view);
}

absl::StatusOr<BlockHead> BlockHead::Read(Pieces pieces) {
  BlockHead head;
  absl::StatusOr<size_t> prefix_bytes = BlockView::PrefixBytes(Contiguous(pieces, kHeaderBytes, &head.copy_));
  if (!prefix_bytes.ok()) return prefix_bytes.status();
  head.copy_.clear();
  absl::StatusOr<BlockView> view = BlockView::Parse(Contiguous(pieces, *prefix_bytes, &head.copy_));
  if (!view.ok()) return view.status();
  head.view_ = *view;
  return head;
}

std::string_view BlockHead::HeadBytes() const {
  const absl::Span<const uint8_t> bytes = view_.bytes();
  const absl::StatusOr<size_t> size = BlockView::PrefixBytes(bytes);
  return AsText(bytes).substr(0, size.ok() ? *size : 0);
}

std::string BlockHead::ProfileDigest() const {
  if (view_.codec() != Codec::kQ) return "";
  const auto& digest = view_.identity().profile_digest;
  return std::string(digest.begin(), digest.end());
}

BlockContent BlockHead::content() const {
  return {.tokens = view_.shape().tokens, .plain_bytes = view_.shape().PlainBytes()};
}

bool BlockHead::IsOf(std::string_view namespace_digest) const {
  return namespace_digest.empty() || AsText(view_.identity().namespace_digest) == namespace_digest;
}

}  // namespace kvist
