// Which tokens of which pages the requests of a plan write: no two may write the same, or the grid's order would decide.
//
// Units   tokens and pages as in decode.h.
// Threads one.
// Why     Requests may share a page: two blocks that lie in one page, the layers of one block in several requests, a latent
//         and its positions. So a page that is named twice is looked at token by token, and then tensor by tensor. The
//         second look is only made when the first has found something: a plan of many whole blocks pays for a sort of
//         its pages.
#ifndef KVIST_KERNELS_CUDA_PAGE_USES_H_
#define KVIST_KERNELS_CUDA_PAGE_USES_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/codec.h"
#include "kernels/cuda/decode.h"

namespace kvist::cuda {

class PageUses {
 public:
  PageUses(const PageLayout& layout, absl::Span<const DecodeRequest> requests) : layout_(layout), requests_(requests) {}

  // Request number `request` holds a block of this shape. REQUIRES: a block table that was checked.
  void Add(size_t request, const BlockShape& shape);
  // InvalidArgument: names the page, the tensor's layer and both requests.
  absl::Status Check();

 private:
  // What one request writes of one page: tokens [first, last) of it. In the order in which they are compared.
  struct Use {
    uintptr_t tensor;  // 0 while all tensors are looked at as one
    uint32_t page;
    bool positions;  // the last channels of a latent's row, which no other block writes
    uint32_t first, last;
    uint32_t request;
    friend auto operator<=>(const Use& a, const Use& b) = default;
  };
  // Sorts, and finds a use that begins before the one in front of it has ended; null if there is none.
  const Use* FindOverlap();
  void TakeTensorsApart();

  const PageLayout& layout_;
  const absl::Span<const DecodeRequest> requests_;
  std::vector<Use> uses_;
};

}  // namespace kvist::cuda

#endif  // KVIST_KERNELS_CUDA_PAGE_USES_H_
