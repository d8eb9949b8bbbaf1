#include "services/worker/explain_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/worker/ask_all.h"

namespace kvist {
namespace {

constexpr size_t kMaxNear = 64;

// What a node says of a block that it does not have.
void TakeFate(const v1::BlockFate& fate, BlockExplanation* explanation) {
  explanation->miss = Known(fate.miss());
  explanation->detail = fate.detail();
  if (fate.gone_unix_ms() > 0) explanation->gone = absl::FromUnixMillis(fate.gone_unix_ms());
  if (fate.made_room_for().size() != Key::kBytes) return;
  std::copy(fate.made_room_for().begin(), fate.made_room_for().end(),
            explanation->made_room_for.emplace().bytes.begin());
}

}  // namespace

ExplainJob::ExplainJob(ClientCore* core, absl::Span<const Key> chain, absl::Time deadline)
    : core_(core), view_(core->view()), chain_(chain), deadline_(deadline) {}

absl::StatusOr<ExplainResult> ExplainJob::Run(ClientCore* core, absl::Span<const Key> chain, absl::Time deadline) {
  ExplainJob job(core, chain, deadline);
  job.AskNodes();
  for (size_t node = 0; node < job.answers_.size(); ++node) {
    const absl::Status& status = job.answers_[node].status;
    if (absl::IsInvalidArgument(status)) return AtNode(job.view_->NodeName(node), status);
  }
  ExplainResult result;
  for (const Segment& segment :
       Segments(chain, {0, chain.size()}, *job.view_, core->options.replicas, &core->locations)) {
    for (size_t block = segment.first; block < segment.last; ++block) {
      result.blocks.push_back(job.Judge(block, segment));
    }
  }
  const auto first_miss = std::find_if(result.blocks.begin(), result.blocks.end(), [](const BlockExplanation& block) {
    return block.miss != v1::MISS_REASON_UNSPECIFIED;
  });
  result.leading = first_miss - result.blocks.begin();
  job.CollectNear(&result);
  return result;
}

void ExplainJob::AskNodes() {
  const auto requests = std::make_shared<std::vector<v1::ExplainRequest>>();
  for (size_t first = 0; first < chain_.size(); first += kMaxKeysPerCall) {
    v1::ExplainRequest& request = requests->emplace_back();
    std::vector<size_t> blocks;
    for (size_t block = first; block < std::min(chain_.size(), first + kMaxKeysPerCall); ++block) {
      blocks.push_back(block);
    }
    request.set_keys(PackKeys(chain_, blocks));
    request.set_namespace_digest(core_->NamespaceField());
    if (first == 0) request.set_namespace_text(core_->namespace_text);
    request.set_view(view_->view.number.value);
  }
  std::vector<NodeQuestion<Answer>> asked;
  for (const std::shared_ptr<NodeLink>& link : view_->links) {
    asked.push_back({link, [core = core_, requests, deadline = deadline_, asking = Asking{link, 0, {}}]() mutable {
                       return AskNode(core, *requests, deadline, &asking);
                     }});
  }
  answers_ = AskAll<Answer>(core_->runtime(), asked, deadline_);
}

OrAgain<ExplainJob::Answer> ExplainJob::AskNode(ClientCore* core, absl::Span<const v1::ExplainRequest> requests,
                                                absl::Time deadline, Asking* asking) {
  Answer& answer = asking->answer;
  for (; asking->next < requests.size(); ++asking->next) {
    const v1::ExplainRequest& request = requests[asking->next];
    absl::StatusOr<v1::ExplainResponse> response =
        asking->node->Ask<v1::ExplainResponse>([&](Channel& channel) { return channel.Explain(request, deadline); });
    if (response.ok() && response->fates_size() != request.keys().size() / Key::kBytes) {
      response = absl::InternalError("the answer to Explain does not fit the request");
    }
    if (!response.ok()) {
      if (const auto again = core->RetryTime(response.status(), deadline)) return *again;
      answer.status = response.status();
      break;
    }
    if (response->has_newer_view()) core->keeper.Learn(response->newer_view());
    core->keeper.Heard(asking->node, response->view());
    core->retries.Succeeded();
    answer.fates.insert(answer.fates.end(), response->fates().begin(), response->fates().end());
    answer.near.insert(answer.near.end(), response->near().begin(), response->near().end());
  }
  return std::move(answer);
}

bool ExplainJob::Has(size_t node, size_t block) const {
  const Answer& answer = answers_[node];
  return answer.status.ok() && answer.fates[block].miss() == v1::MISS_REASON_UNSPECIFIED;
}

BlockExplanation ExplainJob::Judge(size_t block, const Segment& segment) const {
  const Answer& owner = answers_[segment.owner];
  BlockExplanation explanation;
  explanation.node = view_->NodeName(segment.owner);
  if (!owner.status.ok()) {
    explanation.miss = MissReasonOf(owner.status);
    explanation.detail = std::string(owner.status.message());
  } else {
    TakeFate(owner.fates[block], &explanation);
  }
  size_t holder = segment.owner;
  const auto has = [&](size_t node) { return Has(node, block); };
  const auto other = std::find_if(segment.others.begin(), segment.others.end(), has);
  if (!Has(holder, block)) {
    if (other != segment.others.end()) holder = *other;
    for (size_t node = 0; node < answers_.size() && !Has(holder, block); ++node) {
      if (has(node)) holder = node;
    }
  }
  if (!Has(holder, block)) return explanation;
  const v1::BlockFate& fate = answers_[holder].fates[block];
  explanation.tier = fate.tier();
  explanation.size_bytes = fate.size_bytes();
  if (fate.expires_unix_ms() > 0) explanation.expires = absl::FromUnixMillis(fate.expires_unix_ms());
  if (holder == segment.owner) return explanation;
  const std::vector<size_t> owners = Owners(chain_[segment.head], view_->view, core_->options.replicas);
  const bool copy =
      std::find(owners.begin(), owners.end(), holder) != owners.end() ||
      std::find(segment.others.begin() + segment.hot_first, segment.others.end(), holder) != segment.others.end();
  explanation.detail =
      absl::StrCat(copy                            ? "a copy: "
                   : other != segment.others.end() ? "at the previous owner only: "
                                                   : "at a node that readers do not ask: ",
                   "its owner ", explanation.node, " says ", MissReasonName(explanation.miss),
                   explanation.detail.empty() ? "" : " (", explanation.detail, explanation.detail.empty() ? "" : ")");
  explanation.node = view_->NodeName(holder);
  explanation.miss = copy ? v1::MISS_REASON_UNSPECIFIED : v1::MISS_REASON_OWNER_CHANGED;
  return explanation;
}

// Namespaces that several nodes know are one.
void ExplainJob::CollectNear(ExplainResult* result) const {
  for (const Answer& answer : answers_) {
    for (const v1::NearNamespace& near : answer.near) {
      const std::string digest = absl::BytesToHexString(near.digest());
      auto known = std::find_if(result->near.begin(), result->near.end(),
                                [&](const NearNamespaceFound& found) { return found.digest == digest; });
      if (known == result->near.end()) {
        if (result->near.size() == kMaxNear) continue;
        known = result->near.insert(known, {digest, 0, {near.fields().begin(), near.fields().end()}});
      }
      known->blocks += near.blocks();
    }
  }
}

}  // namespace kvist
