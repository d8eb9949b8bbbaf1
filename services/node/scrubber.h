// Verifies resting blocks, one after the other and slowly: memory forgets bits, and a block that nobody reads would
// else be found damaged only by the reader who needs it.
//
// Units   bytes a second.
// Threads one of the Runtime's, from construction to destruction.
#ifndef KVIST_SERVICES_NODE_SCRUBBER_H_
#define KVIST_SERVICES_NODE_SCRUBBER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "cachestore/block_store.h"
#include "services/runtime/runtime.h"

namespace kvist {

struct ScrubberOptions {
  uint64_t rate = 64ull << 20;               // bytes a second, more than 0
  absl::Duration pause = absl::Seconds(10);  // between two passes over the store
  std::function<void(const Key& key)> verify;
};

class Scrubber {
 public:
  Scrubber(ScrubberOptions options, BlockStore* store, Runtime* runtime);
  ~Scrubber();

 private:
  void Run();
  bool ScrubAll();                  // false: told to stop
  bool WaitUntil(absl::Time time);  // the same

  const ScrubberOptions options_;
  BlockStore* const store_;
  Runtime* const runtime_;
  const std::unique_ptr<Condition> stop_;
  std::mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Thread> thread_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_SCRUBBER_H_
