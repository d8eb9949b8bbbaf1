// An engine's pages in device memory, as a decode of a prompt's blocks sees them.
//
// Units   tokens, pages, heads; device addresses as pointers that the host never follows.
#ifndef KVIST_SERVICES_WORKER_DEVICE_PAGES_H_
#define KVIST_SERVICES_WORKER_DEVICE_PAGES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cuda/decode.h"

namespace kvist {

// Of kernels/cuda/decode.h, but for the table, which is the prompt's: token t of it lies in page
// block_table[t / page_tokens]. Tables and addresses are the caller's, and are there as long as the call.
struct DevicePages {
  cuda::PageLayout layout;
  absl::Span<uint16_t* const> layer_pages;  // of all layers
  absl::Span<const uint32_t> block_table;
  uint32_t first_head = 0;  // of a tensor-parallel slice
  int precision = 0;        // bits per code; 0 = the highest that a block has
  Basis basis = Basis::kOriginal;
};

// Where block `block` of a prompt goes: a request without the block's bytes. REQUIRES: CheckDevicePages said OK.
inline cuda::DecodeRequest RequestFor(const DevicePages& pages, const BlockShape& shape, size_t block) {
  const uint64_t covered = cuda::EngineTokens(pages.layout, shape), first = block * covered;
  const uint64_t page_tokens = pages.layout.page_tokens;
  cuda::DecodeRequest request;
  request.layers = {0, shape.layers};
  request.precision = pages.precision;
  request.basis = pages.basis;
  request.first_head = pages.first_head;
  request.layer_pages = pages.layer_pages;
  const uint64_t first_page = first / page_tokens, last_page = (first + covered + page_tokens - 1) / page_tokens;
  request.block_table = pages.block_table.subspan(first_page, last_page - first_page);
  request.first_page_token = static_cast<uint32_t>(first % page_tokens);
  return request;
}

// InvalidArgument or Unimplemented if blocks [first, last) cannot be decoded into these pages, whatever their bytes.
absl::Status CheckDevicePages(const DevicePages& pages, const BlockShape& shape, size_t first, size_t last);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_DEVICE_PAGES_H_
