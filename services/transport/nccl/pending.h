// Waits for the end of an operation that was submitted.
#ifndef KVIST_SERVICES_TRANSPORT_NCCL_PENDING_H_
#define KVIST_SERVICES_TRANSPORT_NCCL_PENDING_H_

#include <functional>
#include <future>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvist {

class Pending {
 public:
  // For Operation::done. May be called when this has gone.
  std::function<void(absl::Status)> Done() {
    return [ended = ended_](absl::Status status) { ended->set_value(std::move(status)); };
  }
  // Once. `deadline` is the operation's: its communicator reports by then and a tick, and a loaded machine ticks late.
  absl::Status Wait(absl::Time deadline) {
    if (end_.wait_until(absl::ToChronoTime(deadline + kGrace)) != std::future_status::ready) {
      return absl::DeadlineExceededError("the watchdog did not report in time");
    }
    return end_.get();
  }

 private:
  static constexpr absl::Duration kGrace = absl::Seconds(1);
  std::shared_ptr<std::promise<absl::Status>> ended_ = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> end_ = ended_->get_future();
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_NCCL_PENDING_H_
