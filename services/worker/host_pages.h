// Blocks decoded into a worker's pages in host memory. Internal to services/worker.
#ifndef KVIST_SERVICES_WORKER_HOST_PAGES_H_
#define KVIST_SERVICES_WORKER_HOST_PAGES_H_

#include <memory>
#include <optional>
#include <utility>

#include "kernels/codec.h"
#include "services/runtime/wait.h"
#include "services/worker/block_target.h"
#include "services/worker/open_profile.h"

namespace kvist {

class HostPages final : public BlockTarget {
 public:
  // `pages`: base is the prompt's token 0.
  // `profile` may be null: blocks that need one are misses.
  HostPages(Runtime* runtime, const Pages& pages, std::shared_ptr<const OpenProfile> profile)
      : pages_(pages), profile_(std::move(profile)), door_(runtime) {}

  std::optional<BlockVerdict> Take(size_t block, absl::Span<const uint8_t> bytes,
                                   const ExpectedBlock& expected) override {
    if (!door_.Enter()) return std::nullopt;
    Pages pages = pages_;
    pages.base += block * expected.shape.tokens * pages.token_stride;
    BlockVerdict verdict = ReadBlock(bytes, expected, pages, profile_ == nullptr ? nullptr : &profile_->ForDecoding());
    door_.Leave();
    return verdict;
  }
  void Close() override { door_.Close(); }

 private:
  const Pages pages_;  // behind door_
  const std::shared_ptr<const OpenProfile> profile_;
  Door door_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_HOST_PAGES_H_
