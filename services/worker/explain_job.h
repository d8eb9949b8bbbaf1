// One Explain: every node is asked what it knows of the chain's blocks; a block is where Match would find it, or a
// reason says why not. Internal to services/worker.
//
// Why every node: a block that lies where no reader looks any more is a miss whose cause nobody else can name.
#ifndef KVIST_SERVICES_WORKER_EXPLAIN_JOB_H_
#define KVIST_SERVICES_WORKER_EXPLAIN_JOB_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/client_core.h"
#include "services/worker/segments.h"

namespace kvist {

class ExplainJob {
 public:
  static absl::StatusOr<ExplainResult> Run(ClientCore* core, absl::Span<const Key> chain, absl::Time deadline);

 private:
  // What one node said of the whole chain.
  struct Answer {
    absl::Status status;
    std::vector<v1::BlockFate> fates;  // by block, if status is ok
    std::vector<v1::NearNamespace> near;

    Answer() = default;
    explicit Answer(absl::Status why) : status(std::move(why)) {}
  };
  // How far a node was asked: it may refuse in the middle, and go on when it said.
  struct Asking {
    std::shared_ptr<NodeLink> node;
    size_t next = 0;  // of the requests
    Answer answer;    // to those before
  };

  ExplainJob(ClientCore* core, absl::Span<const Key> chain, absl::Time deadline);
  void AskNodes();
  static OrAgain<Answer> AskNode(ClientCore* core, absl::Span<const v1::ExplainRequest> requests, absl::Time deadline,
                                 Asking* asking);
  BlockExplanation Judge(size_t block, const Segment& segment) const;
  bool Has(size_t node, size_t block) const;
  void CollectNear(ExplainResult* result) const;

  ClientCore* const core_;
  const LinkedViewRef view_;
  const absl::Span<const Key> chain_;
  const absl::Time deadline_;
  std::vector<Answer> answers_;  // by position in the view
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_EXPLAIN_JOB_H_
