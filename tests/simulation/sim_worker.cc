#include "tests/simulation/sim_worker.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/transport/miss_reason.h"

namespace kvist::simulation {
namespace {

constexpr size_t kTokens = 16, kMostBlocks = 6;
constexpr absl::Duration kBusyAfterCalm = absl::Seconds(30);
constexpr uint64_t kPrompts = 60, kErasedFrom = 50, kCalmPrompts = 1000;
constexpr absl::Duration kDeadline = absl::Seconds(3), kSlack = absl::Milliseconds(500);
constexpr absl::Duration kMostLease = absl::Seconds(5), kMostSkew = absl::Seconds(3);

Namespace SimulatedNamespace() {
  Namespace ns;
  ns.model = "simulated";
  ns.layers = ns.heads = 1;
  ns.head_dim = 64;
  ns.tokens_per_block = kTokens;
  return ns;
}

// Refused by a node that has as much to do as it takes, and nothing else.
bool IsBusy(const PutResult& put) { return put.failed > 0 && absl::StrContains(put.failure, "this node is busy"); }

}  // namespace

SimWorker::SimWorker(SimNetwork* network, SimHost* host, WorkerOptions options)
    : network_(network),
      scheduler_(network->scheduler()),
      host_(host),
      options_(std::move(options)),
      ns_(SimulatedNamespace()),
      values_(ns_, options_.codec, options_.salt) {}

ClientOptions SimWorker::OptionsOf(SimProcess* process) const {
  ClientOptions options;
  options.ns = ns_;
  options.codec = options_.codec;
  options.deadline = kDeadline;
  options.lease = kMostLease;
  options.threads = 1;
  options.replicas = options_.replicas;
  options.runtime = host_;
  options.transport = process->transport();
  options.seeds = options_.seeds;
  return options;
}

void SimWorker::Work(absl::Time until) {
  while (scheduler_->now() < until) {
    SimProcess* const process = network_->NewProcess(host_);
    Live(process, until);
    process->Close();
  }
}

void SimWorker::Live(SimProcess* process, absl::Time until) {
  absl::StatusOr<std::unique_ptr<Client>> client = absl::UnavailableError("");
  while (!client.ok() && scheduler_->now() < until) {
    client = Client::Create(OptionsOf(process));
    if (absl::IsInvalidArgument(client.status())) scheduler_->Fail(client.status().ToString());
    if (!client.ok()) host_->SleepUntil(host_->Now() + absl::Milliseconds(100));
  }
  while (client.ok() && scheduler_->now() < until) {
    const uint64_t prompt = scheduler_->Below(kPrompts);
    const std::vector<Key> chain = ChainOf(**client, prompt);
    if (scheduler_->Chance(0.005)) {
      const auto held = (*client)->Match(chain);
      return process->Kill();  // and nobody ends the lease
    }
    Act(client->get(), chain, prompt);
    host_->SleepUntil(host_->Now() + absl::Milliseconds(scheduler_->Below(200)));
  }
}

void SimWorker::Act(Client* client, const std::vector<Key>& chain, uint64_t prompt) {
  if (scheduler_->Chance(0.03)) Explain(client, chain);
  if (prompt >= kErasedFrom && scheduler_->Chance(0.2)) return Erase(client, chain);
  if (Look(client, chain) < chain.size()) Put(client, chain);
}

std::vector<Key> SimWorker::PutAndRead() {
  std::vector<Key> all;
  SimProcess* const process = network_->NewProcess(host_);
  {
    const absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(OptionsOf(process));
    if (!client.ok()) scheduler_->Fail(absl::StrCat("no client after calm: ", client.status().ToString()));
    for (uint64_t prompt = kCalmPrompts; prompt < kCalmPrompts + 10; ++prompt) {
      const std::vector<Key> chain = ChainOf(**client, prompt);
      // A block that was damaged at rest may still be there: each is found and dropped by one reader.
      size_t damaged = 0;
      for (const Key& key : chain) damaged += options_.journal->damaged.contains(key);
      for (std::string lost; !(lost = PutAndReadOne(client->get(), chain)).empty();) {
        if (damaged-- == 0) scheduler_->Fail(absl::StrCat("after calm a prompt was put and not read: ", lost));
      }
      all.insert(all.end(), chain.begin(), chain.end());
    }
  }
  process->Close();
  return all;
}

std::string SimWorker::PutAndReadOne(Client* client, const std::vector<Key>& chain) {
  PutResult put = Put(client, chain);
  // A node that is still busy (with a Put of a worker whose machine stopped) says so, and is asked again.
  for (const absl::Time until = scheduler_->now() + kBusyAfterCalm; IsBusy(put) && scheduler_->now() < until;) {
    scheduler_->Sleep(absl::Milliseconds(500));
    put = Put(client, chain);
  }
  const size_t found = Look(client, chain);
  const ExplainResult explained = Explain(client, chain);
  if (found == chain.size() && explained.leading == chain.size()) return "";
  std::string lost = absl::StrCat(found, " of ", chain.size(), " blocks came (", put.stored, " stored, ", put.present,
                                  " present, ", put.failed, " failed); ", put.failure);
  if (explained.leading == chain.size()) return lost;
  const BlockExplanation& first = explained.blocks[explained.leading];
  return absl::StrCat(lost, "; Explain: ", explained.leading, ", ", first.node, ": ", MissReasonName(first.miss), ", ",
                      first.detail);
}

std::vector<Key> SimWorker::ChainOf(const Client& client, uint64_t prompt) {
  std::vector<uint32_t> tokens((1 + prompt % kMostBlocks) * kTokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    // Prompts share their first blocks, but for those that are erased.
    const bool shared = i < 2 * kTokens && (prompt < kErasedFrom || prompt >= kCalmPrompts);
    const uint64_t source = shared ? prompt % 10 : prompt;
    tokens[i] = static_cast<uint32_t>(testing::Mix(source * 1000 + i) % 50000);
  }
  return client.Keys(tokens);
}

PutResult SimWorker::Put(Client* client, const std::vector<Key>& chain) {
  ++options_.report->puts;
  const BlockShape shape = ns_.Shape();
  std::vector<uint16_t> plain(shape.Elements() * chain.size()), block(shape.Elements());
  const size_t plane = kTokens * shape.head_dim;  // of K or of V of a block
  for (size_t i = 0; i < chain.size(); ++i) {
    values_.Plain(chain[i], block.data());
    std::copy_n(block.data(), plane, plain.data() + i * plane);
    std::copy_n(block.data() + plane, plane, plain.data() + (chain.size() + i) * plane);
  }
  const Began began = Begin();
  auto put = client->Put(chain, ContiguousPages<const uint16_t>(plain.data(), shape, chain.size() * kTokens));
  Judge("Put", began, put.status());
  if (put->stored + put->present + put->failed != put->blocks || put->blocks != chain.size()) {
    scheduler_->Fail(absl::StrCat("a Put of ", chain.size(), " blocks stored ", put->stored, ", found ", put->present,
                                  " and failed on ", put->failed));
  }
  std::vector<Key>& known = options_.journal->put;
  if (known.size() < Journal::kMostPut) known.insert(known.end(), chain.begin(), chain.end());
  return *std::move(put);
}

size_t SimWorker::Look(Client* client, const std::vector<Key>& chain) {
  ++options_.report->reads;
  Began began = Begin();
  absl::StatusOr<PrefixMatch> match = client->Match(chain);
  Judge("Match", began, match.status());
  if (match->leased() && match->lease_expiry() > scheduler_->now() + kMostLease + kMostSkew) {
    scheduler_->Fail("a lease was granted beyond its bound");
  }
  if (match->blocks() == 0) {
    ++options_.report->misses;
    return 0;
  }
  const BlockShape shape = ns_.Shape();
  std::vector<uint16_t> pages(shape.Elements() * chain.size(), 0xffff);
  began = Begin();
  const auto got =
      client->Get(chain, {0, match->blocks()}, ContiguousPages<uint16_t>(pages.data(), shape, chain.size() * kTokens));
  Judge("Get", began, got.status());
  if (options_.lies_to_itself && got->blocks > 0) pages[0] ^= 1;
  Compare(chain, got->blocks, pages);
  if (got->blocks < chain.size()) ++options_.report->misses;
  return got->blocks;
}

void SimWorker::Compare(const std::vector<Key>& chain, size_t blocks, const std::vector<uint16_t>& pages) {
  const size_t plane = kTokens * ns_.Shape().head_dim;
  for (size_t i = 0; i < blocks; ++i) {
    const std::vector<uint16_t>& expected = values_.Expected(chain[i], i);
    ++options_.report->verified_blocks;
    if (std::equal(expected.begin(), expected.begin() + static_cast<ptrdiff_t>(plane), pages.data() + i * plane) &&
        std::equal(expected.begin() + static_cast<ptrdiff_t>(plane), expected.end(),
                   pages.data() + (chain.size() + i) * plane)) {
      continue;
    }
    scheduler_->Fail(absl::StrCat("block ", i, " came with wrong values"));
  }
}

ExplainResult SimWorker::Explain(Client* client, const std::vector<Key>& chain) {
  const Began began = Begin();
  auto explained = client->Explain(chain);
  Judge("Explain", began, explained.status());
  if (explained->blocks.size() != chain.size() || explained->leading > chain.size()) {
    scheduler_->Fail(absl::StrCat("Explain told of ", explained->blocks.size(), " blocks, ", explained->leading,
                                  " of them leading, of ", chain.size()));
  }
  return *std::move(explained);
}

void SimWorker::Erase(Client* client, const std::vector<Key>& chain) {
  options_.journal->erased.insert(chain.begin(), chain.end());
  const Began began = Begin();
  const auto erased = client->Erase(chain);
  Judge("Erase", began, erased.status());
  if (erased->erased + erased->failed > chain.size()) scheduler_->Fail("Erase counts more blocks than were asked");
}

void SimWorker::Judge(const char* call, const Began& began, const absl::Status& status) {
  if (!status.ok()) scheduler_->Fail(absl::StrCat(call, " failed: ", status.ToString()));
  const absl::Duration took = scheduler_->now() - began.at;
  if (took <= kDeadline + kSlack || (options_.stops && options_.stops() != began.stops)) return;
  scheduler_->Fail(absl::StrCat(call, " took ", absl::FormatDuration(took)));
}

}  // namespace kvist::simulation
