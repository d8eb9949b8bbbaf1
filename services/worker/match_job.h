// One Match: every owner is asked for the part of the chain that it owns, in one call; the common run ends at the first
// block that nobody who was asked has. Internal to services/worker.
//
// A node's blocks that can be nowhere else go as one chain. A segment that may be elsewhere too (a previous owner, a
// replica in place of an owner that is down) is a chain of its own at each node that is asked for it, so that a gap in
// it hides nothing behind it. A second round asks the replicas of what the first did not find.
#ifndef KVIST_SERVICES_WORKER_MATCH_JOB_H_
#define KVIST_SERVICES_WORKER_MATCH_JOB_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/client_core.h"
#include "services/worker/segments.h"

namespace kvist {

class MatchJob {
 public:
  // A lease of zero takes none. REQUIRES: `core` outlives the result.
  static absl::StatusOr<PrefixMatch> Run(ClientCore* core, absl::Span<const Key> chain, absl::Duration lease,
                                         absl::Time deadline);

  // Tells the nodes to end these leases, without waiting for their answers.
  static void ReleaseLater(ClientCore* core, std::vector<PrefixMatch::Lease> leases);
  // One request per node.
  static absl::Status ReleaseNow(ClientCore* core, const std::vector<PrefixMatch::Lease>& leases, absl::Time deadline);

 private:
  // One chain of a request.
  struct ChainAsked {
    std::vector<size_t> blocks;  // ascending
    bool run;                    // what can be nowhere else: a gap ends the asking
    size_t batch;                // which of the node's requests it goes with
  };
  // What one node is asked: its requests follow each other, in ascending order of blocks.
  struct Question {
    std::shared_ptr<NodeLink> node;
    size_t position;
    std::vector<ChainAsked> chains;
    size_t batches = 1, batch_keys = 0;
    std::optional<size_t> run;  // the open chain of the last batch
    bool as_owner = false;      // of anything that is asked
    bool alone = false;         // has blocks that are asked of nobody else: worth the whole deadline
  };
  struct ChainAnswer {
    size_t hits = 0;
    v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;
  };
  struct Answer {
    absl::Status status;  // of the call that ended the asking
    std::vector<ChainAnswer> chains;
    std::vector<PrefixMatch::Lease> leases;
    absl::Duration lease_ttl = absl::InfiniteDuration();  // the shortest
    std::vector<v1::HotSegment> hot;

    Answer() = default;
    explicit Answer(absl::Status why) : status(std::move(why)) {}
  };
  // How far a node was asked: it may refuse in the middle, and go on when it said.
  struct Asking {
    Question question;
    std::vector<v1::MatchRequest> requests;
    absl::Time deadline;
    size_t next = 0;  // of the requests
    Answer answer;    // to those before
  };
  // Why a segment's owner does not have its next block.
  struct OwnerSaid {
    absl::Status status;
    v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;
    bool asked = false;
  };

  MatchJob(ClientCore* core, absl::Span<const Key> chain, absl::Duration lease, absl::Time deadline);

  void PlanFirstRound();
  bool PlanSecondRound();
  // Whether the blocks join the node's common chain, and whether nobody else may have them: then a late answer is better
  // than none.
  struct How {
    bool run, alone;
  };
  void Ask(size_t node, const Segment& segment, size_t first, How how);
  absl::Status AskRound(bool last_round);
  absl::Status Merge(const Question& question, Answer& answer);
  static OrAgain<Answer> AskNode(ClientCore* core, Asking* asking);
  static bool Take(const v1::MatchResponse& response, const Question& question, size_t batch, Answer* answer);
  std::vector<v1::MatchRequest> Requests(const Question& question) const;
  PrefixMatch Conclude();
  void ReleaseBehind(size_t block);
  void Remember();
  void AskForAdoption();
  const Segment& SegmentOf(size_t block) const { return segments_[segment_of_[block]]; }
  const absl::Status& RefusalOf(size_t node);

  ClientCore* const core_;
  const LinkedViewRef view_;
  const absl::Span<const Key> chain_;
  const absl::Duration lease_;
  const absl::Time start_, deadline_;
  std::vector<Segment> segments_;
  std::vector<size_t> segment_of_;                     // by block
  size_t limit_;                                       // no block from here on can be had
  std::vector<std::optional<absl::Status>> refusals_;  // by node, once it was needed
  std::vector<Question> questions_;                    // of the round
  std::vector<size_t> covered_by_;                     // by block: the node that has it, preferably the owner; kNobody
  std::vector<OwnerSaid> owner_said_;                  // by segment
  absl::flat_hash_map<std::string, std::vector<std::string>> hot_;  // by head key
  PrefixMatch match_;
  absl::Duration lease_ttl_ = absl::InfiniteDuration();
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_MATCH_JOB_H_
