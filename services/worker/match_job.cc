#include "services/worker/match_job.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {

constexpr absl::Duration kReleaseDeadline = absl::Seconds(1);

// Adds one response to the answer; true if all of its keys were hits, so that the next batch is of interest.
bool MatchJob::Take(const v1::MatchResponse& response, size_t asked, const std::shared_ptr<NodeLink>& owner,
                    Answer* answer) {
  if (response.chains_size() != 1 || response.chains(0).hits() > asked) {
    answer->status = absl::InternalError("the answer to Match does not fit the request");
    return false;
  }
  const v1::ChainMatch& chain = response.chains(0);
  answer->hits += chain.hits();
  answer->miss = chain.first_miss();
  if (chain.lease() != 0) {
    answer->leases.push_back({owner, chain.lease()});
    answer->lease_ttl = std::min(answer->lease_ttl, absl::Milliseconds(chain.lease_ms()));
  }
  return chain.hits() == asked;
}

MatchJob::Answer MatchJob::Ask(ClientCore* core, const LinkedView& view, const OwnerBlocks& part,
                               absl::Span<const std::string> batches, absl::Duration lease, absl::Time deadline) {
  Answer answer;
  for (const std::string& keys : batches) {
    v1::MatchRequest request;
    request.add_chains()->set_keys(keys);
    request.set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(lease)));
    request.set_explain(true);
    request.set_view(view.view.number.value);
    const absl::StatusOr<v1::MatchResponse> response =
        view.links[part.owner]->Ask<v1::MatchResponse>([&](Channel& node) { return node.Match(request, deadline); });
    if (!response.ok()) {
      answer.status = response.status();
      return answer;
    }
    if (response->has_newer_view()) core->keeper.Learn(response->newer_view());
    core->keeper.Heard(view.links[part.owner], response->view());
    if (!Take(*response, keys.size() / sizeof(Key), view.links[part.owner], &answer)) return answer;
  }
  return answer;
}

// Shortens the match to what this owner's answer allows.
void MatchJob::EndAt(const OwnerBlocks& part, const Answer& answer, const LinkedView& view, PrefixMatch* match) {
  if (answer.hits == part.blocks.size() || part.blocks[answer.hits] >= match->blocks_) return;
  match->blocks_ = part.blocks[answer.hits];
  match->miss_node_ = view.NodeName(part.owner);
  match->why_ = std::string(answer.status.message());
  match->miss_ = answer.status.ok() ? answer.miss : MissReasonOf(answer.status);
  if (match->miss_ == v1::MISS_REASON_UNSPECIFIED) match->miss_ = v1::MISS_REASON_NEVER_STORED;
}

absl::StatusOr<PrefixMatch> MatchJob::Run(ClientCore* core, absl::Span<const Key> chain, absl::Duration lease,
                                          absl::Time deadline) {
  const LinkedViewRef view = core->view();
  const std::vector<OwnerBlocks> parts = GroupByOwner(chain, {0, chain.size()}, view->view);
  std::vector<std::function<Answer()>> tasks;
  for (const OwnerBlocks& part : parts) {
    std::vector<std::string> batches;
    for (size_t first = 0; first < part.blocks.size(); first += kMaxKeysPerCall) {
      batches.push_back(PackKeys(chain, absl::MakeConstSpan(part.blocks).subspan(first, kMaxKeysPerCall)));
    }
    tasks.push_back([core, view, part, batches = std::move(batches), lease, deadline] {
      return Ask(core, *view, part, batches, lease, deadline);
    });
  }
  const absl::Time start = core->Now();
  std::vector<std::optional<Answer>> answers = Gather<Answer>(&core->callers, std::move(tasks), deadline,
                                                              [core](Answer late) { ReleaseLater(core, late.leases); });
  PrefixMatch match(core);
  match.blocks_ = chain.size();
  absl::Status fault;
  absl::Duration lease_ttl = absl::InfiniteDuration();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!answers[i]) answers[i].emplace().status = absl::DeadlineExceededError("no answer in time");
    Answer& answer = *answers[i];
    match.leases_.insert(match.leases_.end(), answer.leases.begin(), answer.leases.end());
    lease_ttl = std::min(lease_ttl, answer.lease_ttl);
    if (IsFault(answer.status)) fault = AtNode(view->NodeName(parts[i].owner), answer.status);
    EndAt(parts[i], answer, *view, &match);
  }
  if (!fault.ok()) return fault;  // the leases go with `match`
  match.tokens_ = match.blocks_ * core->options.ns.tokens_per_block;
  if (match.leased()) match.lease_expiry_ = start + lease_ttl;
  return match;
}

void MatchJob::ReleaseLater(ClientCore* core, const std::vector<PrefixMatch::Lease>& leases) {
  for (const PrefixMatch::Lease& lease : leases) {
    lease.node->Submit([core, lease] {
      v1::ReleaseRequest request;
      request.add_leases(lease.id);
      // A lease that cannot be ended ends by itself.
      lease.node
          ->Ask<v1::ReleaseResponse>(
              [&](Channel& node) { return node.Release(request, core->Now() + kReleaseDeadline); })
          .status()
          .IgnoreError();
    });
  }
}

PrefixMatch::~PrefixMatch() { MatchJob::ReleaseLater(core_, leases_); }

absl::Status PrefixMatch::Release() {
  const absl::Time deadline = core_->Deadline();
  std::vector<std::function<absl::Status()>> tasks;
  for (const Lease& lease : leases_) {
    tasks.push_back([lease, deadline] {
      v1::ReleaseRequest request;
      request.add_leases(lease.id);
      return lease.node->Ask<v1::ReleaseResponse>([&](Channel& node) { return node.Release(request, deadline); })
          .status();
    });
  }
  const std::vector<std::optional<absl::Status>> answers =
      Gather<absl::Status>(&core_->callers, std::move(tasks), deadline);
  absl::Status first;
  for (size_t i = 0; i < answers.size(); ++i) {
    const absl::Status answer = answers[i].value_or(absl::DeadlineExceededError("no answer in time"));
    if (first.ok() && !answer.ok()) first = AtNode(leases_[i].node->id(), answer);
  }
  leases_.clear();
  return first;
}

}  // namespace kvist
