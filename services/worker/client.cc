#include "services/worker/client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/worker/ask_all.h"
#include "services/worker/client_core.h"
#include "services/worker/explain_job.h"
#include "services/worker/fetch_job.h"
#include "services/worker/host_pages.h"
#include "services/worker/match_job.h"
#include "services/worker/put_job.h"
#include "services/worker/segments.h"

namespace kvist {
namespace {

constexpr absl::Duration kLongestCall = absl::Minutes(10);
constexpr int kMaxThreads = 256;
constexpr size_t kMaxSeeds = 64;
constexpr int kMaxReplicas = 3;

bool Within(absl::Duration duration, absl::Duration least) { return duration >= least && duration <= kLongestCall; }

// What the profile, the namespace and the codec say of each other.
absl::Status CheckProfile(const ClientOptions& options) {
  if (options.codec == Codec::kQ && (options.key_bits != 0 || options.value_bits != 0 || !options.tile_bits.empty())) {
    return absl::InvalidArgumentError("q has no bits to choose: its profile decides");
  }
  if (options.profile == nullptr) {
    if (options.codec != Codec::kQ) return absl::OkStatus();
    return absl::InvalidArgumentError("codec q needs a profile of the model (`kvist calibrate` makes one)");
  }
  if (options.profile->digest() != options.ns.profile_digest) {
    return absl::InvalidArgumentError(
        absl::StrCat("the namespace names profile ", DigestText(options.ns.profile_digest),
                     "; the one that was given is ", DigestText(options.profile->digest())));
  }
  if (!ValidateNamespace(options.ns).ok()) return absl::OkStatus();
  return CheckProfileIsOf(options.profile->ForDecoding(), options.ns.Shape());
}

absl::Status Validate(const ClientOptions& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool right, const std::string& otherwise) {
    if (!right) problems.push_back(otherwise);
  };
  const bool from_seeds = options.view.nodes.empty() && !options.seeds.empty();
  for (const absl::Status& part :
       {ValidateNamespace(options.ns), from_seeds ? absl::OkStatus() : ValidateView(options.view)}) {
    require(part.ok(), std::string(part.message()));
  }
  require(options.seeds.size() <= kMaxSeeds, absl::StrCat(options.seeds.size(), " seeds; at most ", kMaxSeeds));
  for (const std::string& seed : options.seeds) {
    const absl::StatusOr<Address> address = ParseAddress(seed);
    require(address.ok() && address->port != 0, absl::StrCat("seed \"", seed, "\" is not host:port"));
  }
  require(options.transport != nullptr, "transport is missing");
  require(options.runtime != nullptr, "runtime is missing");
  const bool known = CodecName(options.codec) != "unknown";
  require(known, "codec is unknown");
  if (const absl::Status profile = CheckProfile(options); !profile.ok()) require(false, std::string(profile.message()));
  // A client that only reads needs no codec for its dtype: Put says what is wrong.
  if (known && options.codec != Codec::kQ && ValidateNamespace(options.ns).ok() &&
      TakesDtype(options.codec, options.ns.dtype)) {
    EncodeOptions encode = EncodeOptionsOf(options);
    encode.floor_db = 0;  // said below
    const absl::Status bits = ValidateOptions(encode, options.ns.Shape());
    require(bits.ok(), std::string(bits.message()));
  }
  require(options.floor_db >= 0 && options.floor_db <= 200,
          absl::StrCat("floor_db ", options.floor_db, " is not 0 to 200"));
  require(options.min_precision >= 0 && options.min_precision <= 16,
          absl::StrCat("min_precision ", options.min_precision, " is not 0 to 16 bits"));
  require(Within(options.deadline, absl::Milliseconds(1)),
          absl::StrCat("deadline ", absl::FormatDuration(options.deadline), " is not 1ms to 10m"));
  require(Within(options.lease, absl::ZeroDuration()),
          absl::StrCat("lease ", absl::FormatDuration(options.lease), " is not 0 to 10m"));
  require(options.threads >= 1 && options.threads <= kMaxThreads,
          absl::StrCat("threads ", options.threads, " is not 1 to ", kMaxThreads));
  require(options.replicas >= 1 && options.replicas <= kMaxReplicas,
          absl::StrCat("replicas ", options.replicas, " is not 1 to ", kMaxReplicas));
  require(options.retry.budget >= 0 && options.retry.earned >= 0 && options.retry.first_pause > absl::ZeroDuration() &&
              options.retry.longest_pause >= options.retry.first_pause,
          "retry: budget and earned must not be negative, and pauses must be positive and grow");
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Create(ClientOptions options) {
  if (options.profile != nullptr && options.ns.profile_digest == decltype(options.ns.profile_digest){}) {
    options.ns.profile_digest = options.profile->digest();
  }
  if (absl::Status valid = Validate(options); !valid.ok()) return valid;
  auto core = std::make_unique<ClientCore>(std::move(options));
  if (absl::Status started = core->keeper.Start(core->options.view, core->Deadline()); !started.ok()) return started;
  return std::unique_ptr<Client>(new Client(std::move(core)));
}

Client::Client(std::unique_ptr<ClientCore> core) : core_(std::move(core)) {}
Client::~Client() = default;

const Namespace& Client::ns() const { return core_->options.ns; }
View Client::view() const { return core_->view()->view; }

std::vector<Key> Client::Keys(absl::Span<const uint32_t> tokens) const {
  return ChainKeys(core_->namespace_digest, core_->options.ns.tokens_per_block, tokens);
}

absl::StatusOr<PrefixMatch> Client::Match(absl::Span<const Key> chain) {
  absl::StatusOr<PrefixMatch> match = MatchJob::Run(core_.get(), chain, core_->options.lease, core_->Deadline());
  if (match.ok()) {
    core_->counters.matched_blocks += match->blocks();
    core_->CountMiss(match->miss());
  }
  return match;
}

absl::StatusOr<GetResult> Client::Get(absl::Span<const Key> chain, BlockRange range, const Pages& pages) {
  if (range.first > range.last || range.last > chain.size()) {
    return absl::InvalidArgumentError(absl::StrCat("blocks [", range.first, ", ", range.last,
                                                   ") are not within the prompt's ", chain.size(), " full blocks"));
  }
  absl::StatusOr<GetResult> result =
      std::make_shared<FetchJob>(core_.get(), chain, range,
                                 std::make_shared<HostPages>(core_->runtime(), pages, core_->profiles.profile()),
                                 core_->Deadline())
          ->Run();
  if (result.ok()) core_->CountGet(*result);
  return result;
}

absl::StatusOr<PutResult> Client::Put(absl::Span<const Key> chain, const ConstPages& pages) {
  const absl::StatusOr<EncodeOptions> encode = core_->PreparedForEncode();
  if (!encode.ok()) return encode.status();
  const absl::Status encodes = ValidateOptions(*encode, core_->options.ns.Shape());
  if (!encodes.ok()) return encodes;
  const absl::Time deadline = core_->Deadline();
  const auto job = std::make_shared<PutJob>(core_.get(), chain, pages, deadline);
  const absl::StatusOr<PrefixMatch> stored = MatchJob::Run(core_.get(), chain, absl::ZeroDuration(), deadline);
  if (!stored.ok()) return stored.status();
  absl::StatusOr<PutResult> result = job->Run(stored->blocks());
  // Blocks were committed from the root on, which leaves the root the least recently used; a Match touches them deepest
  // first, so that a chain nobody reads is evicted from its leaves. Best effort: nothing but the order depends on it.
  if (result.ok() && result->stored > 0) (void)MatchJob::Run(core_.get(), chain, absl::ZeroDuration(), deadline);
  return result;
}

absl::StatusOr<ProfileRef> Client::FetchProfile(const std::array<uint8_t, 16>& digest) {
  const ProfileRef own = core_->profiles.profile();
  if (own != nullptr && own->digest() == digest) return own;
  return core_->profiles.Fetch(digest, /*first=*/nullptr, core_->Deadline());
}

PutProfileResult Client::PutProfile(const OpenProfile& profile) {
  const absl::Time deadline = core_->Now() + std::min(core_->options.deadline, ProfileKeeper::kLongestCall);
  using Answer = absl::StatusOr<v1::PutProfileResponse>;
  const LinkedViewRef view = core_->view();
  std::vector<NodeQuestion<Answer>> asked;
  const auto shared = std::make_shared<const std::string>(profile.file());  // a late call may outlive the caller's
  v1::ProfileName name;
  name.set_digest(std::string(profile.digest().begin(), profile.digest().end()));
  name.set_size_bytes(shared->size());
  for (const std::shared_ptr<NodeLink>& link : view->links) {
    asked.push_back({link, [link, name, shared, deadline] {
                       return link->Ask<v1::PutProfileResponse>(
                           [&](Channel& node) { return node.PutProfile(name, *shared, deadline); });
                     }});
  }
  PutProfileResult result;
  result.nodes = asked.size();
  const std::vector<Answer> answers = AskAll<Answer>(core_->runtime(), asked, deadline);
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].ok()) {
      ++(answers[i]->kept() ? result.kept : result.present);
      continue;
    }
    ++result.failed;
    if (result.failure.empty()) {
      result.failure = std::string(AtNode(asked[i].node->id(), answers[i].status()).message());
    }
  }
  return result;
}

// Every node that may hold a block is told, so that no copy stays behind.
absl::StatusOr<EraseResult> Client::Erase(absl::Span<const Key> chain) {
  const absl::Time deadline = core_->Deadline();
  const LinkedViewRef view = core_->view();
  std::vector<std::vector<size_t>> of_node(view->links.size());  // blocks
  for (const Segment& segment : Segments(chain, {0, chain.size()}, *view, core_->options.replicas, &core_->locations)) {
    for (size_t block = segment.first; block < segment.last; ++block) {
      of_node[segment.owner].push_back(block);
      for (const size_t other : segment.others) of_node[other].push_back(block);
    }
  }
  using Answer = absl::StatusOr<v1::EraseResponse>;
  std::vector<NodeQuestion<Answer>> asked;
  std::vector<absl::Span<const size_t>> batches;  // of each question
  for (size_t node = 0; node < of_node.size(); ++node) {
    for (size_t first = 0; first < of_node[node].size(); first += kMaxKeysPerCall) {
      batches.push_back(absl::MakeConstSpan(of_node[node]).subspan(first, kMaxKeysPerCall));
      v1::EraseRequest request;
      request.set_keys(PackKeys(chain, batches.back()));
      request.set_view(view->view.number.value);
      asked.push_back({view->links[node], [link = view->links[node], request, deadline] {
                         return link->Ask<v1::EraseResponse>(
                             [&](Channel& channel) { return channel.Erase(request, deadline); });
                       }});
    }
  }
  const std::vector<Answer> answers = AskAll<Answer>(core_->runtime(), asked, deadline);
  EraseResult result;
  std::vector<bool> erased(chain.size()), failed(chain.size());
  for (size_t i = 0; i < answers.size(); ++i) {
    const absl::Status& status = answers[i].status();
    if (status.ok()) core_->keeper.Heard(asked[i].node, answers[i]->view());
    if (IsFault(status)) return AtNode(asked[i].node->id(), status);
    if (!status.ok() && result.failure.empty()) {
      result.failure = std::string(AtNode(asked[i].node->id(), status).message());
    }
    for (size_t item = 0; item < batches[i].size(); ++item) {
      if (!status.ok()) failed[batches[i][item]] = true;
      if (status.ok() && item < answers[i]->erased_size() && answers[i]->erased(item)) {
        erased[batches[i][item]] = true;
      }
    }
  }
  for (size_t block = 0; block < chain.size(); ++block) {
    result.erased += erased[block] && !failed[block];
    result.failed += failed[block];
  }
  return result;
}

absl::StatusOr<ExplainResult> Client::Explain(absl::Span<const Key> chain) {
  return ExplainJob::Run(core_.get(), chain, core_->Deadline());
}

std::vector<NodeAnswer> Client::Stats() {
  const absl::Time deadline = core_->Deadline();
  using Answer = absl::StatusOr<v1::ServerInfoResponse>;
  const LinkedViewRef view = core_->view();
  std::vector<NodeQuestion<Answer>> asked;
  for (const std::shared_ptr<NodeLink>& link : view->links) {
    asked.push_back({link, [link, deadline] {
                       return link->Ask<v1::ServerInfoResponse>(
                           [&](Channel& node) { return node.ServerInfo(deadline); });
                     }});
  }
  const std::vector<Answer> answers = AskAll<Answer>(core_->runtime(), asked, deadline);
  std::vector<NodeAnswer> states;
  for (size_t i = 0; i < answers.size(); ++i) {
    NodeAnswer state{view->view.nodes[i], answers[i].status(), {}};
    if (answers[i].ok()) state.info = *answers[i];
    states.push_back(std::move(state));
  }
  return states;
}

ClientCounters Client::counters() const {
  const Counters& now = core_->counters;
  ClientCounters counters;
  counters.matched_blocks = now.matched_blocks;
  counters.fetched_blocks = now.fetched_blocks;
  counters.stored_blocks = now.stored_blocks;
  counters.retries = now.retries;
  counters.stale_views = now.stale_views;
  counters.refreshes = now.refreshes;
  counters.refused_views = now.refused_views;
  counters.openings = now.openings;
  counters.failovers = now.failovers;
  counters.hedges = now.hedges;
  counters.damaged = now.damaged;
  counters.adoptions = now.adoptions;
  counters.fetched_profiles = now.fetched_profiles;
  counters.refused_profiles = now.refused_profiles;
  counters.fetched_bytes = now.fetched_bytes;
  counters.stored_bytes = now.stored_bytes;
  counters.encode_time = absl::Nanoseconds(now.encode_ns.load());
  counters.decode_time = absl::Nanoseconds(now.decode_ns.load());
  for (const std::atomic<uint64_t>& count : now.misses) counters.misses.push_back(count);
  return counters;
}

}  // namespace kvist
