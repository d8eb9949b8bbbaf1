#include "services/worker/device_pages.h"

#include "absl/strings/str_cat.h"

namespace kvist {

absl::Status CheckDevicePages(const DevicePages& pages, const BlockShape& shape, size_t first, size_t last) {
  if (pages.layout.page_tokens == 0) return absl::InvalidArgumentError("pages of 0 tokens");
  const uint64_t tokens = last * uint64_t{cuda::EngineTokens(pages.layout, shape)};
  const uint64_t needed = (tokens + pages.layout.page_tokens - 1) / pages.layout.page_tokens;
  if (pages.block_table.size() < needed) {
    return absl::InvalidArgumentError(absl::StrCat("block table of ", pages.block_table.size(), " pages; ", tokens,
                                                   " tokens need ", needed, " pages of ", pages.layout.page_tokens));
  }
  for (size_t block = first; block < last; ++block) {
    if (absl::Status status = cuda::CheckPages(pages.layout, shape, RequestFor(pages, shape, block)); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("block ", block, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvist
