// A worker that knows every byte it should get: blocks' values follow from their keys (block_values.h), so each value
// that a Get says it delivered is compared. Reads and writes prompts for a while through the real client over gRPC, and
// prints one JSON object a second and a last one with "final": true.
// SIGTERM ends the reading and writing early. Exit: 0; 1 if it could not start; 3 if one value was wrong.
//
//   oracle_worker --seeds HOST:PORT[,...] --clients 4 --seconds 10 [--prompts 1000] [--zipf 0.9] [--rate 500] ...
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"
#include "tests/chaos/block_values.h"
#include "tests/chaos/figures.h"

namespace kvist::testing {
namespace {

constexpr size_t kTokens = 16, kHeadDim = 64;
std::atomic<bool> told_to_end = false;
constexpr absl::Duration kMostLag = absl::Seconds(1);  // arrivals that are later than this are dropped

struct Flags {
  std::string seeds, deadline = "2s", codec = "raw16";
  int clients = 4, seconds = 10, prompts = 1000, blocks = 1, shared = 0, groups = 16, layers = 4, replicas = 1;
  double zipf = 0, fresh = 0, rate = 0;
  uint64_t seed = 1, salt = 1, max_verified = 0;
  bool read_only = false, fill = false, sweep = false;
};

struct Limits {
  absl::Duration deadline;
  Codec codec = Codec::kRaw16;
};

// Ranks 0 to n - 1, rank r with a share of about (r + 1)^-skew; 0 = all alike. The inverse of a continuous zipf.
int PickRank(std::mt19937_64* random, int n, double skew) {
  const double u = std::uniform_real_distribution<double>(0, 1)(*random), s = 1 - skew;
  if (skew <= 0) return std::min(n - 1, static_cast<int>(u * n));
  const double x = std::abs(s) < 1e-9 ? std::pow(n, u) : std::pow(u * (std::pow(n, s) - 1) + 1, 1 / s);
  return std::clamp(static_cast<int>(x) - 1, 0, n - 1);
}

// One client with a thread's worth of reads and writes.
class Worker {
 public:
  Worker(const Flags& flags, const Limits& limits, int number, Transport* transport, Figures* figures)
      : flags_(flags), number_(number), figures_(figures), random_(Mix(flags.seed) + number) {
    ClientOptions options;
    options.ns.model = absl::StrCat("chaos-", flags.codec);
    options.ns.layers = flags.layers;
    options.ns.heads = 1;
    options.ns.head_dim = kHeadDim;
    options.ns.tokens_per_block = kTokens;
    options.seeds = absl::StrSplit(flags.seeds, ',');
    options.transport = transport;
    options.codec = limits.codec;
    options.replicas = flags.replicas;
    options.deadline = limits.deadline;
    options.threads = 1;
    const Namespace ns = options.ns;
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(std::move(options));
    if (!client.ok()) {
      problem_ = std::string(client.status().message());
      return;
    }
    client_ = *std::move(client);
    first_view_ = client_->view();
    shape_ = ns.Shape();
    values_ = std::make_unique<BlockValues>(ns, limits.codec, flags.salt);
    pages_.resize(shape_.Elements() * flags_.blocks);
  }

  const std::string& problem() const { return problem_; }
  ClientCounters counters() const { return client_->counters(); }

  void Fill() {
    for (int prompt = number_; prompt < flags_.prompts; prompt += flags_.clients) {
      for (int attempt = 0; attempt < 5 && !Put(ChainOf(prompt)); ++attempt) {
      }
    }
  }

  void Sweep() {
    for (int prompt = number_; prompt < flags_.prompts; prompt += flags_.clients) Look(ChainOf(prompt));
  }

  void Act() {
    const bool fresh = flags_.fresh > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < flags_.fresh;
    if (!fresh) return ReadOrStore(ChainOf(PickRank(&random_, flags_.prompts, flags_.zipf)));
    const std::vector<Key> chain = ChainOf((int64_t{1} + number_) << 32 | ++fresh_prompts_);
    if (Put(chain)) Look(chain);
  }

 private:
  void ReadOrStore(const std::vector<Key>& chain) {
    const std::optional<size_t> delivered = Look(chain);
    if (delivered && *delivered < chain.size() && !flags_.read_only) Put(chain);
  }

  // A prompt's first `shared` blocks are those of its group, the rest are its own; lengths differ.
  std::vector<Key> ChainOf(int64_t prompt) {
    const uint64_t group = Mix(prompt * 31 + flags_.seed) % flags_.groups, own = Mix(prompt + flags_.seed * 77);
    const size_t longer = flags_.blocks - flags_.shared;
    const size_t blocks = flags_.shared == 0 ? flags_.blocks : flags_.shared + 1 + own % longer;
    std::vector<uint32_t> tokens(blocks * kTokens);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const uint64_t source = i < flags_.shared * kTokens ? group + 1 : own;
      tokens[i] = static_cast<uint32_t>(Mix((source << 16) + i) % 50000);
    }
    return client_->Keys(tokens);
  }

  std::optional<size_t> Look(const std::vector<Key>& chain) {
    const absl::Time start = absl::Now();
    absl::StatusOr<PrefixMatch> match = client_->Match(chain);
    const absl::Time matched = absl::Now();
    figures_->Took(Call::kMatch, matched - start);
    if (!match.ok()) return figures_->Fault(match.status()), std::nullopt;
    Read read;
    read.asked = chain.size();
    read.miss = MissReasonName(match->miss());
    read.miss_why = match->why();
    if (match->blocks() > 0) {
      std::fill(pages_.begin(), pages_.end(), uint16_t{0xffff});  // what is not written must not look right
      const auto pages = ContiguousPages<uint16_t>(pages_.data(), shape_, flags_.blocks * kTokens);
      const absl::StatusOr<GetResult> got = client_->Get(chain, {0, match->blocks()}, pages);
      figures_->Took(Call::kGet, absl::Now() - matched);
      if (!got.ok()) return figures_->Fault(got.status()), std::nullopt;
      read.delivered = got->blocks;
      read.bytes = got->fetched_bytes;
      if (got->miss != v1::MISS_REASON_UNSPECIFIED) {
        read.miss = MissReasonName(got->miss);
        read.miss_why = got->why;
      }
      read.wrong = WrongBlocks(chain, read.delivered);
    }
    const std::vector<size_t> owners = ChainOwners(chain, first_view_);
    for (size_t i = 0; i < std::min(chain.size(), read.delivered + 1); ++i) {
      read.owners.push_back(first_view_.nodes[owners[i]].id.value);
    }
    figures_->Count(read);
    return read.delivered;
  }

  // One block's rows, as the pages keep them: K or V of one layer.
  uint16_t* Row(size_t row, size_t block) {
    return pages_.data() + (row * flags_.blocks + block) * shape_.TileElements();
  }
  size_t Rows() const { return size_t{2} * shape_.layers * shape_.heads; }

  size_t WrongBlocks(const std::vector<Key>& chain, size_t blocks) {
    size_t wrong = 0;
    for (size_t block = 0; block < blocks; ++block) {
      const uint16_t* expected = values_->Expected(chain[block], block).data();
      bool right = true;
      for (size_t row = 0; row < Rows(); ++row) {
        right &= std::equal(Row(row, block), Row(row, block) + shape_.TileElements(),
                            expected + row * shape_.TileElements());
      }
      wrong += !right;
      if (!right) figures_->Wrong(absl::StrCat("block ", block, " of a chain, key ", chain[block].Hex()));
    }
    return wrong;
  }

  bool Put(const std::vector<Key>& chain) {
    std::vector<uint16_t> plain(shape_.Elements());
    for (size_t block = 0; block < chain.size(); ++block) {
      values_->Plain(chain[block], plain.data());
      for (size_t row = 0; row < Rows(); ++row) {
        std::copy_n(plain.data() + row * shape_.TileElements(), shape_.TileElements(), Row(row, block));
      }
    }
    const absl::Time start = absl::Now();
    const absl::StatusOr<PutResult> put =
        client_->Put(chain, ContiguousPages<const uint16_t>(pages_.data(), shape_, flags_.blocks * kTokens));
    figures_->Took(Call::kPut, absl::Now() - start);
    if (!put.ok()) return figures_->Fault(put.status()), false;
    figures_->CountPut(*put);
    return put->failed == 0;
  }

  const Flags flags_;
  const int number_;
  Figures* const figures_;
  std::mt19937_64 random_;
  std::unique_ptr<Client> client_;
  View first_view_;
  BlockShape shape_;
  std::string problem_;
  std::unique_ptr<BlockValues> values_;
  std::vector<uint16_t> pages_;
  int64_t fresh_prompts_ = 0;
};

using Workers = std::vector<std::unique_ptr<Worker>>;

ClientCounters Sum(const Workers& workers) {
  ClientCounters sum;
  for (const std::unique_ptr<Worker>& worker : workers) {
    const ClientCounters one = worker->counters();
    sum.retries += one.retries;
    sum.hedges += one.hedges;
    sum.failovers += one.failovers;
    sum.damaged += one.damaged;
    sum.adoptions += one.adoptions;
    sum.openings += one.openings;
  }
  return sum;
}

// Acts until `end`, at `rate` acts a second (0 = the next begins when the last has ended).
void Run(Worker* worker, const Flags& flags, int number, absl::Time end, Figures* figures) {
  std::mt19937_64 random(Mix(flags.seed + 1000) + number);
  std::exponential_distribution<double> gap(flags.rate > 0 ? flags.rate / flags.clients : 1);
  absl::Time next = absl::Now();
  while (absl::Now() < end && !told_to_end && (flags.max_verified == 0 || figures->verified() < flags.max_verified)) {
    if (flags.rate > 0) {
      next += absl::Seconds(gap(random));
      if (next > end) break;
      const bool dropped = absl::Now() - next > kMostLag;
      figures->Arrival(dropped);
      if (dropped) continue;
      absl::SleepFor(next - absl::Now());
    }
    worker->Act();
  }
}

int RunAll(const Flags& flags, const Limits& limits) {
  const std::unique_ptr<Transport> transport = NewGrpcTransport();
  Figures figures(limits.deadline);
  Workers workers;
  for (int i = 0; i < flags.clients; ++i) {
    workers.push_back(std::make_unique<Worker>(flags, limits, i, transport.get(), &figures));
    if (workers.back()->problem().empty()) continue;
    std::fprintf(stderr, "oracle_worker: %s\n", workers.back()->problem().c_str());
    return 1;
  }
  const absl::Time start = absl::Now();
  const auto print = [&](bool final) {
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    std::puts(figures.ToJson(seconds, final, Sum(workers)).dump().c_str());
    std::fflush(stdout);
  };
  std::atomic<int> running = flags.clients;
  std::vector<std::thread> threads;
  for (int i = 0; i < flags.clients; ++i) {
    threads.emplace_back([&, i] {
      if (flags.fill) {
        workers[i]->Fill();
      } else if (flags.sweep) {
        workers[i]->Sweep();
      } else {
        Run(workers[i].get(), flags, i, start + absl::Seconds(flags.seconds), &figures);
      }
      --running;
    });
  }
  print(false);
  for (absl::Time next = start + absl::Seconds(1); running > 0; next += absl::Seconds(1)) {
    while (running > 0 && absl::Now() < next) absl::SleepFor(absl::Milliseconds(5));
    if (running > 0) print(false);
  }
  for (std::thread& thread : threads) thread.join();
  print(true);
  return figures.wrong() > 0 ? 3 : 0;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("A worker that knows every byte it should get");
  app.add_option("--seeds", flags.seeds, "Nodes to start from, host:port[,host:port...]")->required();
  app.add_option("--clients", flags.clients, "Clients, one thread each")->check(CLI::PositiveNumber);
  app.add_option("--seconds", flags.seconds);
  app.add_option("--prompts", flags.prompts)->check(CLI::PositiveNumber);
  app.add_option("--blocks", flags.blocks, "Of the longest prompt")->check(CLI::PositiveNumber);
  app.add_option("--shared", flags.shared, "Leading blocks that prompts of one group share; less than --blocks");
  app.add_option("--groups", flags.groups)->check(CLI::PositiveNumber);
  app.add_option("--layers", flags.layers, "A block is layers * 4 KiB")->check(CLI::PositiveNumber);
  app.add_option("--codec", flags.codec, "raw16, i8 or ladder");
  app.add_option("--replicas", flags.replicas);
  app.add_option("--zipf", flags.zipf, "How unlike prompts are read; 0 = all alike");
  app.add_option("--fresh", flags.fresh, "Part of the acts that put a prompt that nobody has put, and read it");
  app.add_option("--rate", flags.rate, "Acts a second that are offered, over all clients; 0 = one after the other");
  app.add_option("--deadline", flags.deadline);
  app.add_option("--seed", flags.seed, "Of the prompts and of what is picked");
  app.add_option("--salt", flags.salt, "Of the blocks' values");
  app.add_option("--max-verified", flags.max_verified, "Ends when so many blocks were compared");
  app.add_flag("--read-only", flags.read_only, "Misses are not stored");
  app.add_flag("--fill", flags.fill, "Stores every prompt once and ends");
  app.add_flag("--sweep", flags.sweep, "Reads every prompt once and ends");
  CLI11_PARSE(app, argc, argv);
  Limits limits;
  const absl::StatusOr<Codec> codec = ParseCodec(flags.codec);
  if (!codec.ok() || !absl::ParseDuration(flags.deadline, &limits.deadline) || flags.shared >= flags.blocks) {
    std::fprintf(stderr, "oracle_worker: --codec %s, --deadline %s or --shared %d is wrong\n", flags.codec.c_str(),
                 flags.deadline.c_str(), flags.shared);
    return 1;
  }
  limits.codec = *codec;
  std::signal(SIGTERM, [](int) { told_to_end = true; });
  return RunAll(flags, limits);
}

}  // namespace
}  // namespace kvist::testing

int main(int argc, char** argv) { return kvist::testing::Main(argc, argv); }
