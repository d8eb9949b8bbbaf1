#include "services/worker/match_job.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/worker/ask_all.h"

namespace kvist {
namespace {

constexpr absl::Duration kReleaseDeadline = absl::Seconds(1);
constexpr size_t kNobody = SIZE_MAX;
constexpr int kMaxHotNodes = 8;        // of one segment that are remembered
constexpr int kMaxAdoptedKeys = 1024;  // in one request
constexpr size_t kMaxReleased = 1024;  // leases in one request

}  // namespace

MatchJob::MatchJob(ClientCore* core, absl::Span<const Key> chain, absl::Duration lease, absl::Time deadline)
    : core_(core),
      view_(core->view()),
      chain_(chain),
      lease_(lease),
      start_(core->Now()),
      deadline_(deadline),
      segments_(Segments(chain, {0, chain.size()}, *view_, core->options.replicas, &core->locations)),
      segment_of_(chain.size()),
      limit_(chain.size()),
      refusals_(view_->links.size()),
      covered_by_(chain.size(), kNobody),
      owner_said_(segments_.size()),
      match_(core) {
  for (size_t i = 0; i < segments_.size(); ++i) {
    std::fill(segment_of_.begin() + segments_[i].first, segment_of_.begin() + segments_[i].last, i);
  }
}

absl::StatusOr<PrefixMatch> MatchJob::Run(ClientCore* core, absl::Span<const Key> chain, absl::Duration lease,
                                          absl::Time deadline) {
  MatchJob job(core, chain, lease, deadline);
  job.PlanFirstRound();
  if (absl::Status fault = job.AskRound(/*last_round=*/false); !fault.ok()) return fault;  // leases go with the job
  if (job.PlanSecondRound()) {
    if (absl::Status fault = job.AskRound(/*last_round=*/true); !fault.ok()) return fault;
  }
  return job.Conclude();
}

const absl::Status& MatchJob::RefusalOf(size_t node) {
  if (!refusals_[node]) refusals_[node] = view_->links[node]->Refusal();
  return *refusals_[node];
}

// Adds blocks [first, segment.last) to what the node is asked.
void MatchJob::Ask(size_t node, const Segment& segment, size_t first, How how) {
  auto found =
      std::find_if(questions_.begin(), questions_.end(), [&](const Question& q) { return q.position == node; });
  if (found == questions_.end()) {
    found = questions_.insert(found, Question{view_->links[node], node, {}});
  }
  Question& question = *found;
  if (question.batch_keys + segment.last - first > kMaxKeysPerCall) {
    ++question.batches;
    question.batch_keys = 0;
    question.run.reset();
  }
  question.batch_keys += segment.last - first;
  question.as_owner = question.as_owner || node == segment.owner;
  question.alone = question.alone || how.alone;
  if (!how.run || !question.run) {
    question.chains.push_back({{}, how.run, question.batches - 1});
    if (how.run) question.run = question.chains.size() - 1;
  }
  std::vector<size_t>& blocks = question.chains[how.run ? *question.run : question.chains.size() - 1].blocks;
  for (size_t block = first; block < segment.last; ++block) blocks.push_back(block);
  if (node == segment.owner) owner_said_[segment_of_[first]].asked = true;
}

void MatchJob::PlanFirstRound() {
  for (const Segment& segment : segments_) {
    std::vector<size_t> asked;
    const bool owner_up = RefusalOf(segment.owner).ok();
    if (owner_up) asked.push_back(segment.owner);
    const size_t others = owner_up ? segment.asked_first : segment.others.size();
    for (size_t i = 0; i < others; ++i) {
      if (RefusalOf(segment.others[i]).ok()) asked.push_back(segment.others[i]);
    }
    if (asked.empty()) {
      limit_ = segment.first;
      return;
    }
    if (!owner_up) ++core_->counters.failovers;
    const auto up = [this](size_t node) { return RefusalOf(node).ok(); };
    const size_t holders = owner_up + std::count_if(segment.others.begin(), segment.others.end(), up);
    for (const size_t node : asked) {
      Ask(node, segment, segment.first, {asked.size() == 1 && owner_up, holders == 1});
    }
  }
}

// What is not covered yet and may be at a node that was not asked. False if the run ends before any of it.
bool MatchJob::PlanSecondRound() {
  questions_.clear();
  const auto gap = std::find(covered_by_.begin(), covered_by_.begin() + limit_, kNobody);
  for (size_t i = gap == covered_by_.begin() + limit_ ? segments_.size() : segment_of_[gap - covered_by_.begin()];
       i < segments_.size() && segments_[i].first < limit_; ++i) {
    const Segment& segment = segments_[i];
    size_t first = segment.first;
    while (first < segment.last && covered_by_[first] != kNobody) ++first;
    if (first == segment.last) continue;
    bool asked = false;
    if (owner_said_[i].asked) {
      for (size_t other = segment.asked_first; other < segment.others.size(); ++other) {
        if (!RefusalOf(segment.others[other]).ok()) continue;
        Ask(segment.others[other], segment, first, {/*run=*/false, /*alone=*/false});
        asked = true;
      }
    }
    if (!asked) break;
    ++core_->counters.failovers;
  }
  return !questions_.empty() && core_->Now() < deadline_;
}

std::vector<v1::MatchRequest> MatchJob::Requests(const Question& question) const {
  std::vector<v1::MatchRequest> requests(question.batches);
  for (const ChainAsked& asked : question.chains) {
    v1::MatchRequest& request = requests[asked.batch];
    request.add_chains()->set_keys(PackKeys(chain_, asked.blocks));
    request.set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(lease_)));
    request.set_explain(true);
    request.set_view(view_->view.number.value);
  }
  return requests;
}

// Adds one response to the answer; true if the next batch is of interest: no gap in what can be nowhere else.
bool MatchJob::Take(const v1::MatchResponse& response, const Question& question, size_t batch, Answer* answer) {
  int next = 0;
  bool gap = false;
  for (const ChainAsked& asked : question.chains) {
    if (asked.batch != batch) continue;
    if (next == response.chains_size() || response.chains(next).hits() > asked.blocks.size()) {
      answer->status = absl::InternalError("the answer to Match does not fit the request");
      return false;
    }
    const v1::ChainMatch& chain = response.chains(next++);
    answer->chains.push_back({chain.hits(), Known(chain.first_miss())});
    gap = gap || (asked.run && chain.hits() < asked.blocks.size());
    if (chain.lease() == 0) continue;
    answer->leases.push_back({question.node, chain.lease(), asked.blocks.front()});
    answer->lease_ttl = std::min(answer->lease_ttl, absl::Milliseconds(chain.lease_ms()));
  }
  answer->hot.insert(answer->hot.end(), response.hot().begin(), response.hot().end());
  return !gap;
}

OrAgain<MatchJob::Answer> MatchJob::AskNode(ClientCore* core, Asking* asking) {
  Answer& answer = asking->answer;
  const std::shared_ptr<NodeLink>& node = asking->question.node;
  for (; asking->next < asking->requests.size(); ++asking->next) {
    const absl::StatusOr<v1::MatchResponse> response = node->Ask<v1::MatchResponse>(
        [&](Channel& channel) { return channel.Match(asking->requests[asking->next], asking->deadline); });
    if (!response.ok()) {
      if (const auto again = core->RetryTime(response.status(), asking->deadline)) return *again;
      answer.status = response.status();
      break;
    }
    if (response->has_newer_view()) core->keeper.Learn(response->newer_view());
    core->keeper.Heard(node, response->view());
    node->HeardLoad(response->load());
    core->retries.Succeeded();
    if (!Take(*response, asking->question, asking->next, &answer)) break;
  }
  return std::move(answer);
}

// Asks all questions of the round, in parallel. While a second round may find the same elsewhere, a node has half of
// the time. Returns the first fault.
absl::Status MatchJob::AskRound(bool last_round) {
  const absl::Time half = core_->Now() + (deadline_ - core_->Now()) / 2;
  std::vector<NodeQuestion<Answer>> asked;
  absl::Time latest = absl::InfinitePast();
  for (const Question& question : questions_) {
    const absl::Time deadline = last_round || question.alone ? deadline_ : half;
    latest = std::max(latest, deadline);
    asked.push_back(
        {question.node, [core = core_, asking = Asking{question, Requests(question), deadline, 0, {}}]() mutable {
           return AskNode(core, &asking);
         }});
  }
  std::vector<Answer> answers = AskAll<Answer>(
      core_->runtime(), asked, latest, [core = core_](Answer late) { ReleaseLater(core, std::move(late.leases)); });
  absl::Status fault;
  for (size_t i = 0; i < questions_.size(); ++i) {
    absl::Status merged = Merge(questions_[i], answers[i]);
    if (!merged.ok()) fault = std::move(merged);
  }
  return fault;
}

absl::Status MatchJob::Merge(const Question& question, Answer& answer) {
  match_.leases_.insert(match_.leases_.end(), answer.leases.begin(), answer.leases.end());
  lease_ttl_ = std::min(lease_ttl_, answer.lease_ttl);
  answer.chains.resize(question.chains.size());  // those that were not reached have no hits
  for (size_t i = 0; i < question.chains.size(); ++i) {
    const std::vector<size_t>& blocks = question.chains[i].blocks;
    const ChainAnswer& chain = answer.chains[i];
    for (size_t hit = 0; hit < chain.hits; ++hit) {
      size_t& by = covered_by_[blocks[hit]];
      if (by == kNobody || question.position == SegmentOf(blocks[hit]).owner) by = question.position;
    }
    if (chain.hits == blocks.size()) continue;
    for (size_t gap = chain.hits; gap < blocks.size(); ++gap) {
      OwnerSaid& said = owner_said_[segment_of_[blocks[gap]]];
      if (SegmentOf(blocks[gap]).owner != question.position) continue;
      if (!answer.status.ok()) said.status = absl::Status(answer.status.code(), answer.status.message());
      if (gap == chain.hits) said.miss = chain.miss;
    }
  }
  for (const v1::HotSegment& hot : answer.hot) {
    std::vector<std::string>& nodes = hot_[hot.head()];
    nodes.clear();
    // Names that our view does not have lead nowhere, and may be as long as a message.
    std::copy_if(hot.nodes().begin(), hot.nodes().begin() + std::min(hot.nodes_size(), kMaxHotNodes),
                 std::back_inserter(nodes), [&](const std::string& name) { return view_->Position(name).has_value(); });
  }
  if (!question.as_owner || !IsFault(answer.status)) return absl::OkStatus();
  return AtNode(question.node->id(), answer.status);
}

PrefixMatch MatchJob::Conclude() {
  const auto gap = std::find(covered_by_.begin(), covered_by_.begin() + limit_, kNobody);
  match_.blocks_ = gap - covered_by_.begin();
  match_.tokens_ = match_.blocks_ * core_->options.ns.tokens_per_block;
  ReleaseBehind(match_.blocks_);
  // A node may not grant more than it was asked for: until then callers keep what names the lease.
  if (match_.leased()) match_.lease_expiry_ = start_ + std::min(lease_ttl_, lease_);
  if (match_.blocks_ < chain_.size()) {
    const OwnerSaid& said = owner_said_[segment_of_[match_.blocks_]];
    const size_t owner = SegmentOf(match_.blocks_).owner;
    const absl::Status& status = said.asked ? said.status : RefusalOf(owner);
    match_.miss_node_ = view_->NodeName(owner);
    match_.why_ = std::string(status.message());
    match_.miss_ = status.ok() ? said.miss : MissReasonOf(status);
    if (match_.miss_ == v1::MISS_REASON_UNSPECIFIED) match_.miss_ = v1::MISS_REASON_NEVER_STORED;
  }
  Remember();
  AskForAdoption();
  return std::move(match_);
}

// Leases on hits that no reader of this match can use.
void MatchJob::ReleaseBehind(size_t block) {
  std::vector<PrefixMatch::Lease>& leases = match_.leases_;
  const auto behind =
      std::partition(leases.begin(), leases.end(), [&](const auto& lease) { return lease.first_block < block; });
  ReleaseLater(core_, {behind, leases.end()});
  leases.erase(behind, leases.end());
}

// Notes for Get what is not as the ring says.
void MatchJob::Remember() {
  for (const Segment& segment : segments_) {
    if (segment.first >= match_.blocks_) break;
    if (segment.others.empty() && hot_.empty() && core_->locations.empty()) continue;
    Location location;
    for (size_t block = segment.first; block < std::min(segment.last, match_.blocks_); ++block) {
      if (covered_by_[block] != segment.owner) location.found = view_->NodeName(covered_by_[block]);
    }
    const Key& head = chain_[segment.head];
    const auto hot = hot_.find(std::string(head.bytes.begin(), head.bytes.end()));
    if (hot != hot_.end()) location.hot = hot->second;
    if (location == Location()) {
      core_->locations.Forget(head);
    } else {
      core_->locations.Record(head, std::move(location));
    }
  }
}

// Owners that answered but lack what was found elsewhere are told where it is.
void MatchJob::AskForAdoption() {
  std::map<std::pair<size_t, size_t>, v1::AdoptRequest> requests;  // by owner and holder
  for (size_t i = 0; i < segments_.size() && segments_[i].first < match_.blocks_; ++i) {
    const Segment& segment = segments_[i];
    if (segment.others.empty() || !owner_said_[i].asked || !owner_said_[i].status.ok()) continue;
    const size_t last = std::min(segment.last, match_.blocks_);
    const auto found = std::find_if(covered_by_.begin() + segment.first, covered_by_.begin() + last,
                                    [&](size_t by) { return by != segment.owner; });
    if (found == covered_by_.begin() + last || !core_->locations.TakeAdoption(chain_[segment.head])) continue;
    for (size_t block = found - covered_by_.begin(); block < last; ++block) {
      if (covered_by_[block] == segment.owner) continue;
      v1::AdoptRequest& request = requests[{segment.owner, covered_by_[block]}];
      if (request.keys().size() >= kMaxAdoptedKeys * Key::kBytes) continue;  // the next Match tells of the others
      request.mutable_keys()->append(PackKeys(chain_, {block}));
      request.mutable_segment_heads()->append(PackKeys(chain_, {segment.head}));
    }
  }
  for (auto& [nodes, request] : requests) {
    request.set_from(view_->NodeName(nodes.second));
    request.set_namespace_digest(core_->NamespaceField());
    core_->counters.adoptions += request.keys().size() / Key::kBytes;
    core_->errands.Submit([core = core_, owner = view_->links[nodes.first], request = std::move(request)] {
      const absl::Time deadline = core->Now() + kErrandDeadline;
      owner->Ask<v1::AdoptResponse>([&](Channel& node) { return node.Adopt(request, deadline); })
          .status()
          .IgnoreError();  // the next Match finds them at the same place
    });
  }
}

namespace {

// The requests to each node, in the order of the leases.
using NodeReleases = std::vector<std::pair<std::shared_ptr<NodeLink>, std::vector<v1::ReleaseRequest>>>;
template <typename Leases>
NodeReleases GroupByNode(const Leases& leases) {
  NodeReleases groups;
  for (const auto& lease : leases) {
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == lease.node; });
    if (group == groups.end()) group = groups.insert(group, {lease.node, {}});
    std::vector<v1::ReleaseRequest>& requests = group->second;
    if (requests.empty() || requests.back().leases_size() == kMaxReleased) requests.emplace_back();
    requests.back().add_leases(lease.id);
  }
  return groups;
}

absl::Status Release(NodeLink& node, absl::Span<const v1::ReleaseRequest> requests, absl::Time deadline) {
  for (const v1::ReleaseRequest& request : requests) {
    absl::Status released =
        node.Ask<v1::ReleaseResponse>([&](Channel& channel) { return channel.Release(request, deadline); }).status();
    if (!released.ok()) return released;
  }
  return absl::OkStatus();
}

}  // namespace

void MatchJob::ReleaseLater(ClientCore* core, std::vector<PrefixMatch::Lease> leases) {
  // A lease that cannot be ended ends by itself.
  for (auto& [node, requests] : GroupByNode(leases)) {
    if (!node->Refusal().ok()) continue;
    node->Submit([core, node = node, requests = std::move(requests)] {
          Release(*node, requests, core->Now() + kReleaseDeadline).IgnoreError();
        })
        .IgnoreError();
  }
}

absl::Status MatchJob::ReleaseNow(ClientCore* core, const std::vector<PrefixMatch::Lease>& leases,
                                  absl::Time deadline) {
  std::vector<NodeQuestion<absl::Status>> asked;
  for (auto& [node, requests] : GroupByNode(leases)) {
    asked.push_back(
        {node, [node = node, requests = std::move(requests), deadline] { return Release(*node, requests, deadline); }});
  }
  const std::vector<absl::Status> answers = AskAll<absl::Status>(core->runtime(), asked, deadline);
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].ok()) return AtNode(asked[i].node->id(), answers[i]);
  }
  return absl::OkStatus();
}

PrefixMatch::~PrefixMatch() { MatchJob::ReleaseLater(core_, std::move(leases_)); }

absl::Status PrefixMatch::Release() {
  return MatchJob::ReleaseNow(core_, std::exchange(leases_, {}), core_->Deadline());
}

}  // namespace kvist
