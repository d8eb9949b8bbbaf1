// Goal    No bytes of a request make a node crash, answer without a word, answer for other keys than were asked, or
//         take memory beyond the request's own measure.
// Input   One byte that says which method, then the request as protobuf. The store holds blocks of a few known keys.
// Method  Answers are compared with the request: one verdict for each key, counts that are possible.
#include <string>
#include <vector>

#include "kvist/v1/cache.pb.h"
#include "kvist/v1/cluster.pb.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/node_under_test.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate unreadable("bytes that are no request"), wrong("a request that is wrong"), hits_gate("Match finds blocks"),
    leased("Match grants a lease"), newer("Match tells a newer view"), hot_gate("Match names a hot segment"),
    got("Get sends blocks"), part_of("Get sends a part of a block"), missed("Get misses"), erased_gate("Erase erases"),
    released("Release"), explained("Explain finds a block"), near("Explain names a near namespace"),
    described("Describe"), reported("Report"), adopted("Adopt"), drained("Drain");

// A constant for what every call costs, and so much for each byte of the request: a verdict of Explain is a sentence.
constexpr uint64_t kOwnBytes = 64 << 10, kBytesPerByte = 256;

uint64_t WholeKeys(const std::string& keys) { return keys.size() / 32; }

template <typename Response>
bool Said(const absl::StatusOr<Response>& response) {
  if (response.ok()) return true;
  KVIST_HOLDS(!response.status().message().empty(), "refused without a word");
  KVIST_HOLDS(absl::IsInvalidArgument(response.status()) || absl::IsResourceExhausted(response.status()),
              response.status().ToString());
  wrong.Pass();
  return false;
}

void Match(fuzz::NodeUnderTest& node, const v1::MatchRequest& request) {
  const auto response = node.handlers->Match(Caller::Anyone(), request);
  if (!Said(response)) return;
  KVIST_HOLDS(response->chains_size() == request.chains_size(), response->chains_size(), " verdicts");
  KVIST_HOLDS(request.chains_size() <= static_cast<int>(fuzz::kMaxTestKeys), "chains without keys are free");
  for (int i = 0; i < request.chains_size(); ++i) {
    const v1::ChainMatch& match = response->chains(i);
    const uint64_t keys = WholeKeys(request.chains(i).keys());
    KVIST_HOLDS(match.hits() <= keys, match.hits(), " hits of ", keys);
    KVIST_HOLDS((match.first_miss() != v1::MISS_REASON_UNSPECIFIED) == (request.explain() && match.hits() < keys),
                "the reason of the first miss");
    KVIST_HOLDS(match.lease() == 0 || request.lease_ms() > 0, "a lease that nobody asked for");
    KVIST_HOLDS(match.lease_ms() <= request.lease_ms(), "a longer lease than was asked for");
    if (match.hits() > 0) hits_gate.Pass();
    if (match.lease() != 0) leased.Pass();
  }
  KVIST_HOLDS(response->has_newer_view() == (request.view() != 0 && request.view() < response->view()), "the view");
  if (response->has_newer_view()) newer.Pass();
  if (response->hot_size() > 0) hot_gate.Pass();
}

void Get(fuzz::NodeUnderTest& node, const v1::GetRequest& request) {
  auto session = node.handlers->OpenGet(Caller::Anyone(), request, node.DeadlineIn(absl::Seconds(1)));
  if (!Said(session)) return;
  const uint64_t keys = WholeKeys(request.keys());
  uint64_t items = 0, sent = 0, promised = 0;
  for (;;) {
    const auto message = (*session)->Next();
    if (!message.ok()) return (void)Said(message);
    if (const auto* header = std::get_if<v1::GetHeader>(&*message)) {
      KVIST_HOLDS(header->item() == items++ && items <= keys, "item ", header->item());
      KVIST_HOLDS(header->sent_bytes() <= header->block_bytes(), header->sent_bytes());
      promised += header->sent_bytes();
      if (header->miss() != v1::MISS_REASON_UNSPECIFIED) missed.Pass();
      if (header->sent_bytes() > 0) (header->sent_bytes() < header->block_bytes() ? part_of : got).Pass();
    } else if (const auto* part = std::get_if<PinnedPart>(&*message)) {
      sent += part->size_bytes;
    } else {
      const auto& trailer = std::get<v1::GetTrailer>(*message);
      KVIST_HOLDS(items == keys && trailer.hits() + trailer.misses() == keys, items, " items of ", keys);
      KVIST_HOLDS(sent == promised && trailer.sent_bytes() == sent, sent, " bytes, promised ", promised);
      return;
    }
  }
}

void Put(fuzz::NodeUnderTest& node, const v1::PutRequest& request) {
  auto session = node.handlers->OpenPut(Caller::Anyone(), node.DeadlineIn(absl::Seconds(1)));
  if (!Said(session)) return;
  const auto reserved = (*session)->Reserve(request.reserve());
  if (!Said(reserved) || !*reserved) return;
  const auto committed = (*session)->Commit(request.reserve().size_bytes());
  KVIST_HOLDS(!committed.ok() && !committed.status().message().empty(), "a block that was never written is stored");
}

void Erase(fuzz::NodeUnderTest& node, const v1::EraseRequest& request) {
  const auto response = node.handlers->Erase(Caller::Anyone(), request);
  if (!Said(response)) return;
  KVIST_HOLDS(static_cast<uint64_t>(response->erased_size()) == WholeKeys(request.keys()), "one verdict for each key");
  for (const bool erased : response->erased()) erased ? erased_gate.Pass() : void();
}

void Explain(fuzz::NodeUnderTest& node, const v1::ExplainRequest& request) {
  const auto response = node.handlers->Explain(Caller::Anyone(), request);
  if (!Said(response)) return;
  KVIST_HOLDS(static_cast<uint64_t>(response->fates_size()) == WholeKeys(request.keys()), "one fate for each key");
  for (const v1::BlockFate& fate : response->fates()) {
    KVIST_HOLDS(!fate.detail().empty(), "a fate without a sentence");
    KVIST_HOLDS((fate.miss() == v1::MISS_REASON_UNSPECIFIED) == (fate.size_bytes() > 0), "present, or why not");
    if (fate.size_bytes() > 0) explained.Pass();
  }
  KVIST_HOLDS(response->SerializeAsString().size() > 0 || response->fates_size() == 0, "an answer that cannot be sent");
  if (response->near_size() > 0) near.Pass();
}

// The names and values of a namespace that the node knows, with a block of it: what Explain compares with.
constexpr char kKnownText[] = R"({"model": "m", "dtype": "bf16", "layers": 32, "tp_rank": 0, "rope": "none"})";

template <typename Request, typename Call>
void WithRequest(absl::Span<const uint8_t> bytes, const Call& call) {
  Request request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return unreadable.Pass();
  const fuzz::AllocationMeter meter;
  call(request);
  KVIST_HOLDS(meter.bytes() <= kOwnBytes + kBytesPerByte * bytes.size(), meter.bytes(), " bytes for ", bytes.size());
}

void CallMethod(fuzz::NodeUnderTest& node, uint64_t method, absl::Span<const uint8_t> bytes) {
  CacheHandlers& handlers = *node.handlers;
  switch (method) {
    case 0:
      return WithRequest<v1::MatchRequest>(bytes, [&](const auto& request) { Match(node, request); });
    case 1:
      return WithRequest<v1::GetRequest>(bytes, [&](const auto& request) { Get(node, request); });
    case 2:
      return WithRequest<v1::PutRequest>(bytes, [&](const auto& request) { Put(node, request); });
    case 3:
      return WithRequest<v1::EraseRequest>(bytes, [&](const auto& request) { Erase(node, request); });
    case 4:
      return WithRequest<v1::ReleaseRequest>(bytes, [&](const auto& request) {
        if (Said(handlers.Release(Caller::Anyone(), request))) released.Pass();
      });
    case 5:
      return WithRequest<v1::ExplainRequest>(bytes, [&](const auto& request) { Explain(node, request); });
    case 6:
      return WithRequest<v1::DescribeRequest>(bytes, [&](const auto& request) {
        if (Said(handlers.Describe(Caller::Anyone(), request))) described.Pass();
      });
    case 7:
      return WithRequest<v1::ReportRequest>(bytes, [&](const auto& request) {
        const auto response = handlers.Report(Caller::Anyone(), request);
        if (!Said(response)) return;
        KVIST_HOLDS(response->damaged() == 0 && node.damaged == 0, "a good block was dropped");
        reported.Pass();
      });
    case 8:
      return WithRequest<v1::AdoptRequest>(bytes, [&](const auto& request) {
        const auto response = handlers.Adopt(Caller::Anyone(), request);
        if (!Said(response)) return;
        KVIST_HOLDS(response->accepted() <= WholeKeys(request.keys()), response->accepted());
        adopted.Pass();
      });
    default:
      return WithRequest<v1::DrainRequest>(bytes, [&](const auto& request) {
        if (Said(handlers.Drain(Caller::Anyone(), request))) drained.Pass();
      });
  }
}

void Run(fuzz::Input input) {
  fuzz::NodeUnderTest node;
  for (int key = 0; key < 3; ++key) node.Store(key, 0);
  v1::DescribeRequest known;
  known.set_namespace_digest(fuzz::TestNamespace(0));
  known.set_namespace_text(kKnownText);
  KVIST_HOLDS(node.handlers->Describe(Caller::Anyone(), known).ok(), "describe");
  const uint64_t method = input.Below(10);
  CallMethod(node, method, input.Rest());

  node.runtime.Turn(absl::Minutes(1));
  const StoreStats stats = *node.tier->Stats();
  KVIST_HOLDS(stats.pinned_bytes == 0 && stats.reserved_bytes == 0 && stats.leases == 0, stats.pinned_bytes, " pinned");
  const v1::Load load = node.handlers->load();
  KVIST_HOLDS(load.streams() == 0 && load.queued_bytes() == 0, "load: ", load.streams(), ", ", load.queued_bytes());
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
