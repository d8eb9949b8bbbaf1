// Goal    Whatever nodes answer, each call of a client ends by its deadline, what it delivers is the true block, and
//         nothing but the blocks of its range is written.
// Input   Eleven bytes of options, up to kMostActs acts of four bytes, then the nodes' answers (hostile_cluster.h), in
//         the order in which they are asked.
// Method  The client's threads are fibers on a virtual clock, in an order that the input seeds, so that one input is
//         one run. Acts run one after the other or beside each other. Memory of the caller is freed as soon as its call
//         has returned; at the end counters are compared with the results.
#include "services/worker/client.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/transport/miss_reason.h"
#include "services/worker/explain_json.h"
#include "services/worker/json_text.h"
#include "services/worker/node_json.h"
#include "tests/fuzz/block_truth.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/hostile_cluster.h"
#include "tests/simulation/sim_runtime.h"

namespace kvist {
namespace {

using fuzz::Gate;
using fuzz::kTrueBlocks;
using fuzz::TrueForm;

Gate delivered("a block is delivered"), partly("a Get delivers a part of its range"), lower("a lower precision"),
    damage("a damaged block is noticed"), stored_gate("a block is stored"), unstored("a block is not stored"),
    leased("a lease"), released("leases are released"), failover("another node is asked"), hedged("a late stream"),
    retried("a call is tried again"), opened("a node is given up"), learned("a newer view"), refused("a wrong view"),
    adopted("an adoption is asked for"), fault_gate("a fault"), seeded("a view from the seeds"),
    unseeded("no view from any seed"), erased_gate("blocks are erased"), explained("blocks are explained"),
    beside("calls beside each other"), starved("a call that has no time left");

constexpr int kMostActs = 8;
constexpr uint16_t kCanary = 0xdead;
constexpr absl::Duration kSlack = absl::Milliseconds(1);               // of the virtual clock
constexpr uint64_t kOwnBytes = uint64_t{8} << 20, kBytesPerByte = 64;  // of a run; most take below 2 MiB

struct Act {
  uint8_t kind, a, b, c;
};

// What the results of all calls sum up to.
struct Sums {
  uint64_t matched = 0, fetched = 0, stored = 0, misses = 0, fetched_bytes = 0, stored_bytes = 0, put_blocks = 0;
};

class Script {
 public:
  Script(fuzz::Input* input, Runtime* runtime) : input_(input), runtime_(runtime) {
    ReadOptions();
    for (int i = input_->Byte() % (kMostActs + 1); i > 0; --i) {
      acts_.push_back({input_->Byte(), input_->Byte(), input_->Byte(), input_->Byte()});
    }
    cluster_.emplace(input_, runtime_, hostile_);
  }

  void Run() {
    const fuzz::AllocationMeter meter;
    if (!Create()) return;
    std::vector<std::unique_ptr<Thread>> threads;
    for (const Act& act : acts_) {
      if ((act.kind & 0x80) == 0) {
        Do(act);
        continue;
      }
      threads.push_back(runtime_->Start([this, act] { Do(act); }));
      beside.Pass();
    }
    threads.clear();
    CheckCounters();
    matches_.clear();
    client_ = nullptr;
    const uint64_t most = kOwnBytes + kBytesPerByte * cluster_->counts().answer_bytes;
    KVIST_HOLDS(meter.bytes() <= most, meter.bytes(), " bytes; at most ", most);
  }

 private:
  void ReadOptions() {
    const uint8_t nodes = input_->Byte(), codec = input_->Byte(), promise = input_->Byte(), time = input_->Byte();
    hostile_.nodes = 1 + nodes % fuzz::kHostileNodes;
    hostile_.down = (nodes & 0x80) != 0 ? nodes / 8 % 16 : 0;
    hostile_.held = static_cast<uint32_t>(input_->Number(3)) & ((1 << kTrueBlocks) - 1);
    hostile_.held_form = codec / 4 % 5;
    hostile_.put_form = codec % 3;
    hostile_.part_bytes = size_t{64} << input_->Below(9);
    options_.ns = fuzz::TrueNamespace();
    options_.codec = std::array{Codec::kRaw16, Codec::kI8, Codec::kLadder}[hostile_.put_form];
    options_.floor_db = (promise & 1) != 0 ? static_cast<float>(promise / 8) : 0;
    hostile_.own_floor = options_.floor_db == 0;
    options_.min_precision = (promise & 2) != 0 ? promise / 16 : 0;
    options_.deadline = absl::Milliseconds(std::array{1, 60, 400, 2000, 5000, 5000, 20000, 100}[time % 8]);
    options_.lease = absl::Milliseconds(std::array{0, 1000, 5000, 600000}[time / 8 % 4]);
    options_.threads = 1 + time / 32 % 3;
    options_.replicas = 1 + codec / 32 % 3;
    options_.runtime = runtime_;
    if ((promise & 4) != 0) options_.seeds = {"seed:9", "[::1]:10"};
  }

  bool Create() {
    const bool from_seeds = !options_.seeds.empty() && (hostile_.held & 1) == 0;
    if (!from_seeds) options_.view = cluster_->FirstView();
    options_.transport = &*cluster_;
    const absl::Time began = runtime_->Now();
    absl::StatusOr<std::unique_ptr<Client>> created = Client::Create(options_);
    InTime(began, "Create");
    if (!created.ok()) {
      KVIST_HOLDS(from_seeds && absl::IsUnavailable(created.status()), created.status().ToString());
      unseeded.Pass();
      return false;
    }
    if (from_seeds) seeded.Pass();
    client_ = *std::move(created);
    return true;
  }

  void Do(const Act& act) {
    const absl::Time began = runtime_->Now();
    switch (act.kind % 8) {
      case 0:
      case 1:
        Get(act);
        return InTime(began, "Get");
      case 2:
        Put(act);
        return InTime(began, "Put");
      case 3:
        return Match(act);  // two calls
      case 4:
        Erase(act);
        return InTime(began, "Erase");
      case 5:
        Explain(act);
        return InTime(began, "Explain");
      case 6:
        Stats(act);
        return InTime(began, "Stats");
      default:
        runtime_->SleepUntil(began + absl::Milliseconds(act.a) * act.b);
    }
  }

  void InTime(absl::Time began, const char* what) {
    const absl::Duration took = runtime_->Now() - began;
    KVIST_HOLDS(took <= options_.deadline + kSlack, what, " took ", absl::FormatDuration(took), " of ",
                absl::FormatDuration(options_.deadline));
    if (took >= options_.deadline) starved.Pass();
  }

  // A node that is down, late or wrong costs misses; only one that says that the request is wrong makes a Status.
  bool Went(const absl::Status& status) {
    if (status.ok()) return true;
    KVIST_HOLDS(fuzz::SaysFault(status), "no fault: ", status.ToString());
    KVIST_HOLDS(cluster_->counts().faults > 0, "nobody said: ", status.ToString());
    fault_gate.Pass();
    return false;
  }

  // Keys of true blocks and a few more; rarely so many that they make two requests.
  static size_t ChainOf(const Act& act) { return act.c == 255 ? fuzz::kChainKeys - act.a : act.a % 24; }
  absl::Span<const Key> Chain(size_t blocks) const { return absl::MakeConstSpan(fuzz::TrueChain()).first(blocks); }

  void CheckMiss(bool all, v1::MissReason miss, const std::string& node) {
    KVIST_HOLDS(all == (miss == v1::MISS_REASON_UNSPECIFIED), "all came: ", all, ", and the reason is ", miss);
    KVIST_HOLDS(all || !MissReasonName(miss).empty(), "a reason without a name: ", miss);
    KVIST_HOLDS(all || !node.empty(), "nobody's miss");
    sums_.misses += !all;
  }

  void Match(const Act& act) {
    const auto chain = Chain(ChainOf(act));
    const absl::Time began = runtime_->Now();
    absl::StatusOr<PrefixMatch> match = client_->Match(chain);
    InTime(began, "Match");
    if (!Went(match.status())) return;
    KVIST_HOLDS(match->blocks() <= chain.size(), match->blocks(), " of ", chain.size());
    KVIST_HOLDS(match->tokens() == match->blocks() * options_.ns.tokens_per_block, match->tokens());
    CheckMiss(match->blocks() == chain.size(), match->miss(), match->miss_node());
    sums_.matched += match->blocks();
    if (match->leased()) {
      leased.Pass();
      const absl::Duration lease = match->lease_expiry() - began;
      KVIST_HOLDS(lease <= options_.lease + kSlack, "a lease of ", absl::FormatDuration(lease));
    }
    if (act.b % 4 == 1) Release(&*match);
    if (act.b % 4 == 2) matches_.push_back(std::make_unique<PrefixMatch>(*std::move(match)));
  }

  void Release(PrefixMatch* match) {
    const absl::Time began = runtime_->Now();
    match->Release().IgnoreError();  // of a node that could not be told
    InTime(began, "Release");
    KVIST_HOLDS(!match->leased(), "leases that were released");
    released.Pass();
  }

  // --- Get ---
  struct Buffer {
    std::vector<uint16_t> elements;
    Pages pages;
  };

  // As many tokens as the range needs, each row followed by a gap.
  Buffer NewBuffer(BlockRange range, size_t gap) const {
    const BlockShape shape = options_.ns.Shape();
    Buffer buffer;
    const size_t token = shape.head_dim + gap, head = token * range.last * shape.tokens, layer = head * shape.heads;
    buffer.elements.assign(2 * shape.layers * layer, kCanary);
    buffer.pages = {buffer.elements.data(), shape.layers * layer, layer, head, token};
    return buffer;
  }

  void Get(const Act& act) {
    const auto chain = Chain(act.c % (kTrueBlocks + 1));
    const size_t last = chain.empty() ? 0 : act.b % (chain.size() + 1);
    const BlockRange range = {last == 0 ? 0 : act.a % (last + 1), last};
    Buffer buffer = NewBuffer(range, act.a >> 6);
    const absl::StatusOr<GetResult> got = client_->Get(chain, range, buffer.pages);
    if (!Went(got.status())) return;
    const size_t asked = range.last - range.first;
    KVIST_HOLDS(got->blocks <= asked, got->blocks, " of ", asked);
    CheckMiss(got->blocks == asked, got->miss, got->miss_node);
    KVIST_HOLDS(got->plain_bytes == got->blocks * options_.ns.Shape().PlainBytes(), got->plain_bytes);
    KVIST_HOLDS(got->fetched_bytes <= cluster_->counts().answer_bytes, got->fetched_bytes);
    CheckPages(buffer, range, got->blocks);
    sums_.fetched += got->blocks;
    sums_.fetched_bytes += got->fetched_bytes;
    if (got->blocks > 0) delivered.Pass();
    if (got->blocks > 0 && got->blocks < asked) partly.Pass();
  }

  void CheckPages(const Buffer& buffer, BlockRange range, size_t blocks) {
    const BlockShape shape = options_.ns.Shape();
    for (size_t block = range.first; block < range.first + blocks; ++block) CheckBlock(buffer.pages, block);
    const size_t first = range.first * shape.tokens, last = range.last * shape.tokens;
    for (size_t row = 0; row < 2 * shape.layers * shape.heads; ++row) {
      const uint16_t* const tokens = buffer.elements.data() + row * buffer.pages.head_stride;
      for (size_t token = 0; token < last; ++token) {
        const size_t from = token < first ? 0 : shape.head_dim;
        for (size_t i = from; i < buffer.pages.token_stride; ++i) {
          KVIST_HOLDS(tokens[token * buffer.pages.token_stride + i] == kCanary, "row ", row, " token ", token,
                      " is written outside of the range");
        }
      }
    }
  }

  // Each form is a truth of its own; what was promised to the reader holds for the one that it got.
  void CheckBlock(const Pages& pages, size_t block) {
    const std::vector<TrueForm>& forms = fuzz::TrueForms(block);
    const auto form =
        std::find_if(forms.begin(), forms.end(), [&](const TrueForm& f) { return Equal(pages, block, f); });
    KVIST_HOLDS(form != forms.end(), "block ", block, " was delivered and is not what was stored");
    KVIST_HOLDS(form->precision >= options_.min_precision, "block ", block, " at ", form->precision, " bits");
    KVIST_HOLDS(form->min_sqnr_db >= options_.floor_db, "block ", block, " of ", form->min_sqnr_db, " dB");
    if (form->precision < 4) lower.Pass();
  }

  bool Equal(const Pages& pages, size_t block, const TrueForm& form) const {
    const BlockShape shape = options_.ns.Shape();
    const uint16_t* truth = form.plain.data();
    for (size_t kv = 0; kv < 2; ++kv) {
      for (size_t layer = 0; layer < shape.layers; ++layer) {
        for (size_t token = 0; token < shape.tokens; ++token, truth += shape.head_dim) {
          const uint16_t* const row = pages.Row(kv, layer, 0, block * shape.tokens + token);
          if (std::memcmp(row, truth, shape.head_dim * sizeof(uint16_t)) != 0) return false;
        }
      }
    }
    return true;
  }

  void Put(const Act& act) {
    const auto chain = Chain(act.a % (kTrueBlocks + 1));
    const BlockShape shape = options_.ns.Shape();
    Buffer buffer = NewBuffer({0, chain.size()}, act.b % 3);
    for (size_t block = 0; block < chain.size(); ++block) {
      const uint16_t* truth = fuzz::TrueForms(block)[0].plain.data();
      for (size_t row = 0; row < 2 * shape.layers * shape.tokens; ++row, truth += shape.head_dim) {
        const size_t tile = row / shape.tokens, token = row % shape.tokens;
        std::copy_n(truth, shape.head_dim,
                    buffer.pages.Row(tile / shape.layers, tile % shape.layers, 0, block * shape.tokens + token));
      }
    }
    const Pages& to = buffer.pages;
    sums_.put_blocks += chain.size();
    const absl::StatusOr<PutResult> put =
        client_->Put(chain, {to.base, to.kv_stride, to.layer_stride, to.head_stride, to.token_stride});
    if (!Went(put.status())) return;
    KVIST_HOLDS(put->blocks == chain.size(), put->blocks, " of ", chain.size());
    KVIST_HOLDS(put->stored + put->present + put->failed == put->blocks, put->stored, " + ", put->present, " + ",
                put->failed, " of ", put->blocks);
    KVIST_HOLDS((put->failed > 0) == !put->failure.empty(), put->failed, " failed: ", put->failure);
    KVIST_HOLDS(put->plain_bytes == put->stored * shape.PlainBytes(), put->plain_bytes);
    sums_.stored += put->stored;
    sums_.stored_bytes += put->stored_bytes;
    if (put->stored > 0) stored_gate.Pass();
    if (put->failed > 0) unstored.Pass();
  }

  void Erase(const Act& act) {
    const auto chain = Chain(act.a % 24);
    const absl::StatusOr<EraseResult> erased = client_->Erase(chain);
    if (!Went(erased.status())) return;
    KVIST_HOLDS(erased->erased + erased->failed <= chain.size(), erased->erased, " + ", erased->failed);
    KVIST_HOLDS((erased->failed > 0) == !erased->failure.empty(), erased->failed, " failed: ", erased->failure);
    if (erased->erased > 0) erased_gate.Pass();
  }

  void Explain(const Act& act) {
    const auto chain = Chain(ChainOf(act));
    const absl::StatusOr<ExplainResult> result = client_->Explain(chain);
    if (!Went(result.status())) return;
    KVIST_HOLDS(result->blocks.size() == chain.size() && result->leading <= chain.size(), result->blocks.size());
    for (size_t i = 0; i < chain.size(); ++i) {
      const BlockExplanation& block = result->blocks[i];
      KVIST_HOLDS(!block.node.empty(), "nobody's block");
      const bool present = block.miss == v1::MISS_REASON_UNSPECIFIED;
      KVIST_HOLDS(present || i >= result->leading, "a miss among the leading blocks");
      KVIST_HOLDS(present == MissReasonName(block.miss).empty(), "a reason without a name: ", block.miss);
    }
    if (chain.size() < 64) KVIST_HOLDS(!JsonText(ExplainJson(*result)).empty(), "explanations as JSON");
    if (!chain.empty()) explained.Pass();
  }

  void Stats(const Act&) {
    const std::vector<NodeAnswer> states = client_->Stats();
    KVIST_HOLDS(!states.empty(), "a view without nodes");
    for (const NodeAnswer& state : states) KVIST_HOLDS(!JsonText(NodeJson(state)).empty(), "a node as JSON");
  }

  void CheckCounters() {
    const ClientCounters counters = client_->counters();
    const fuzz::HostileCluster::Counts& served = cluster_->counts();
    KVIST_HOLDS(counters.matched_blocks == sums_.matched, counters.matched_blocks, " matched, not ", sums_.matched);
    KVIST_HOLDS(counters.fetched_blocks == sums_.fetched, counters.fetched_blocks, " fetched, not ", sums_.fetched);
    KVIST_HOLDS(counters.stored_blocks == sums_.stored, counters.stored_blocks, " stored, not ", sums_.stored);
    KVIST_HOLDS(counters.fetched_bytes == sums_.fetched_bytes, counters.fetched_bytes, " bytes fetched");
    KVIST_HOLDS(counters.stored_bytes == sums_.stored_bytes, counters.stored_bytes, " bytes stored");
    uint64_t misses = 0;
    for (const uint64_t count : counters.misses) misses += count;
    KVIST_HOLDS(misses == sums_.misses, misses, " misses, not ", sums_.misses);
    KVIST_HOLDS(sums_.stored <= served.commits, sums_.stored, " stored by ", served.commits, " commits");
    KVIST_HOLDS(counters.damaged <= served.damaged, counters.damaged, " damaged of ", served.damaged);
    CheckPuts(counters);
    const std::pair<uint64_t, Gate*> gates[] = {{counters.damaged, &damage},        {counters.failovers, &failover},
                                                {counters.hedges, &hedged},         {counters.retries, &retried},
                                                {counters.openings, &opened},       {counters.refreshes, &learned},
                                                {counters.refused_views, &refused}, {counters.adoptions, &adopted}};
    for (const auto& [count, gate] : gates) count > 0 ? gate->Pass() : void();
  }

  // A node that refuses is asked again within the retry budget; besides, a block may move to a new owner once, be
  // reserved again at its exact size, or be asked for again where the node says that it is being written.
  void CheckPuts(const ClientCounters& counters) {
    const double budget =
        options_.retry.budget +
        options_.retry.earned * static_cast<double>(counters.stored_blocks + cluster_->counts().exists);
    const double most = 3.0 * static_cast<double>(sums_.put_blocks + cluster_->counts().exists) + 2 * budget;
    KVIST_HOLDS(static_cast<double>(cluster_->counts().puts) <= most, cluster_->counts().puts, " reservations of ",
                sums_.put_blocks, " blocks");
  }

  fuzz::Input* const input_;
  Runtime* const runtime_;
  fuzz::HostileCluster::Options hostile_;
  ClientOptions options_;
  std::vector<Act> acts_;
  std::optional<fuzz::HostileCluster> cluster_;
  std::unique_ptr<Client> client_;
  std::vector<std::unique_ptr<PrefixMatch>> matches_;
  Sums sums_;
};

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvist;                                                              // NOLINT: the scheduler's names
  (void)fuzz::TrueForms(0), (void)fuzz::ForeignBlock(0, 0), (void)fuzz::BlockOf("");  // not within a fiber
  fuzz::Input input(data, size);
  simulation::SchedulerOptions options;
  options.seed = input.Number(2);
  options.preempt = static_cast<double>(input.Byte() % 4) / 16;
  options.watchdog = absl::ZeroDuration();  // libFuzzer has its own
  options.stack_bytes = 512 << 10;
  options.abort = true;
  simulation::Scheduler scheduler(options);
  scheduler.Run([&] { Script(&input, scheduler.world()).Run(); });
  return 0;
}
