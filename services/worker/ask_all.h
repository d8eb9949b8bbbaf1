// One question to each of several nodes, in parallel. Internal to services/worker.
#ifndef KVIST_SERVICES_WORKER_ASK_ALL_H_
#define KVIST_SERVICES_WORKER_ASK_ALL_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/runtime/wait.h"
#include "services/worker/node_link.h"

namespace kvist {

template <typename T>
struct NodeQuestion {
  std::shared_ptr<NodeLink> node;
  // Runs in a turn of the node's, and again whenever it returned a time: so that nobody waits in a turn for the moment
  // that the node named.
  std::function<OrAgain<T>()> ask;
};

// What each returned by the deadline, in order. In place of an answer that there is none of comes T(status): why the
// node is not asked now, or DeadlineExceeded. Answers that are late go to `late`, as Gather says.
template <typename T>
std::vector<T> AskAll(Runtime* runtime, const std::vector<NodeQuestion<T>>& questions, absl::Time deadline,
                      std::function<void(T)> late = nullptr) {
  std::vector<absl::Status> why(questions.size(), absl::DeadlineExceededError("no answer in time"));
  const auto submit = [&](size_t i, std::function<void()> task) {
    NodeLink& node = *questions[i].node;
    absl::Status taken = node.Refusal();
    if (taken.ok()) taken = node.Submit(std::move(task));
    if (taken.ok()) return true;
    why[i] = std::move(taken);
    return false;
  };
  std::vector<std::function<OrAgain<T>()>> tasks;
  for (const NodeQuestion<T>& question : questions) tasks.push_back(question.ask);
  std::vector<T> answers;
  std::vector<std::optional<T>> gathered = Gather<T>(runtime, submit, std::move(tasks), deadline, std::move(late));
  for (size_t i = 0; i < gathered.size(); ++i) {
    answers.push_back(gathered[i] ? *std::move(gathered[i]) : T(std::move(why[i])));
  }
  return answers;
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_ASK_ALL_H_
