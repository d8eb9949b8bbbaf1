// One Match: every owner is asked for the part of the chain that it owns; the common run ends at the first block that
// any of them lacks. Internal to services/worker.
#ifndef KVIST_SERVICES_WORKER_MATCH_JOB_H_
#define KVIST_SERVICES_WORKER_MATCH_JOB_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/worker/client_core.h"

namespace kvist {

struct MatchJob {
  // A lease of zero takes none. REQUIRES: `core` outlives the result.
  static absl::StatusOr<PrefixMatch> Run(ClientCore* core, absl::Span<const Key> chain, absl::Duration lease,
                                         absl::Time deadline);

  // Tells the owners to end these leases, without waiting for their answers.
  static void ReleaseLater(ClientCore* core, const std::vector<PrefixMatch::Lease>& leases);

 private:
  struct Answer {
    absl::Status status;                                // of the call that ended the asking
    size_t hits = 0;                                    // leading blocks of this owner
    v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;  // of the next, as the node says
    std::vector<PrefixMatch::Lease> leases;
    absl::Duration lease_ttl = absl::InfiniteDuration();  // the shortest
  };
  static Answer Ask(ClientCore* core, const LinkedView& view, const OwnerBlocks& part,
                    absl::Span<const std::string> batches, absl::Duration lease, absl::Time deadline);
  static bool Take(const v1::MatchResponse& response, size_t asked, const std::shared_ptr<NodeLink>& owner,
                   Answer* answer);
  static void EndAt(const OwnerBlocks& part, const Answer& answer, const LinkedView& view, PrefixMatch* match);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_MATCH_JOB_H_
