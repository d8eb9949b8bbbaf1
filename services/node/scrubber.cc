#include "services/node/scrubber.h"

#include <algorithm>
#include <utility>

#include "services/node/log.h"

namespace kvist {
namespace {

constexpr size_t kBatch = 64;  // blocks listed at once

}  // namespace

Scrubber::Scrubber(ScrubberOptions options, BlockStore* store, Runtime* runtime)
    : options_(std::move(options)), store_(store), runtime_(runtime), stop_(runtime->NewCondition()) {
  thread_ = runtime->Start([this] { Run(); });
}

Scrubber::~Scrubber() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  stop_->NotifyAll();
  thread_ = nullptr;
}

void Scrubber::Run() {
  while (WaitUntil(runtime_->Now() + options_.pause) && ScrubAll()) {
  }
}

bool Scrubber::ScrubAll() {
  absl::Time next = runtime_->Now();
  uint64_t cursor = 0;
  do {
    const absl::StatusOr<BlockStore::ScanResult> scan = store_->Scan(cursor, kBatch);
    if (!scan.ok()) {
      Log(LogLevel::kWarning, "the store cannot be scrubbed", {{"problem", std::string(scan.status().message())}});
      return true;
    }
    for (const ScannedBlock& block : scan->blocks) {
      options_.verify(block.key);
      next += absl::Seconds(static_cast<double>(block.size_bytes) / options_.rate);
      if (!WaitUntil(next)) return false;
    }
    next = std::max(next, runtime_->Now());  // time that was lost is not made up for by a burst
    cursor = scan->next;
  } while (cursor != 0);
  return true;
}

bool Scrubber::WaitUntil(absl::Time time) {
  std::unique_lock lock(mutex_);
  return !stop_->WaitUntil(lock, time, [this] { return stopped_; });
}

}  // namespace kvist
