// A worker that knows every byte it should get: blocks' values follow from their keys, so each value that a Get says it
// delivered is compared. Reads and writes prompts for a while through the real client over gRPC, and prints one JSON
// object a second and a last one with "final": true. Exit: 0, 3 if one value was wrong, 1 if it could not start.
//
//   oracle_worker --seeds HOST:PORT[,...] [--clients 4] [--seconds 10] [--prompts 1000] [--blocks 1] [--layers 4]
//                 [--zipf 0] [--replicas 1] [--deadline 2s] [--seed 1] [--read-only] [--fill-only] [--max-reads 0]
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/cluster/ring.h"
#include "services/transport/miss_reason.h"
#include "services/worker/client.h"

namespace kvist {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kTokens = 16, kHeadDim = 64;

struct Flags {
  std::string seeds, deadline = "2s";
  int clients = 4, seconds = 10, prompts = 1000, blocks = 1, layers = 4, replicas = 1;
  double zipf = 0;
  uint64_t seed = 1, max_reads = 0;
  bool read_only = false, fill_only = false;
};

struct Figures {
  std::mutex mutex;
  uint64_t reads = 0, hits = 0, wrong = 0, stored = 0, put_failures = 0, faults = 0, bytes = 0;
  std::map<std::string, uint64_t> misses, reads_by_owner, misses_by_owner;  // owners of the first view
  std::array<double, 3> longest = {0, 0, 0};                                // seconds: Match, Get, Put
  std::string example;                                                      // of a wrong value or a fault
};

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Worker {
 public:
  Worker(const Flags& flags, int number, Transport* transport, Figures* figures)
      : flags_(flags), number_(number), figures_(figures), random_(flags.seed * 1000 + number) {
    ClientOptions options;
    options.ns.model = "chaos";
    options.ns.layers = flags.layers;
    options.ns.heads = 1;
    options.ns.head_dim = kHeadDim;
    options.ns.tokens_per_block = kTokens;
    options.seeds = absl::StrSplit(flags.seeds, ',');
    options.transport = transport;
    options.codec = Codec::kRaw16;
    options.replicas = flags.replicas;
    options.threads = 1;
    if (!absl::ParseDuration(flags.deadline, &options.deadline)) options.deadline = absl::Seconds(2);
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(std::move(options));
    if (!client.ok()) {
      problem_ = std::string(client.status().message());
      return;
    }
    client_ = *std::move(client);
    first_view_ = client_->view();
    const BlockShape shape = client_->ns().Shape();
    values_.resize(2 * shape.layers * shape.heads * flags_.blocks * kTokens * kHeadDim);
    pages_ = ContiguousPages(values_.data(), shape, flags_.blocks * kTokens);
  }

  const std::string& problem() const { return problem_; }

  void Fill(int clients) {
    for (int prompt = number_; prompt < flags_.prompts; prompt += clients) {
      for (int attempt = 0; attempt < 3 && !Put(ChainOf(prompt)); ++attempt) {
      }
    }
  }

  void ReadOnce() {
    const std::vector<Key> chain = ChainOf(Pick());
    const std::string owner = first_view_.nodes[Owner(chain[0], first_view_)].id.value;
    const absl::Time start = absl::Now();
    absl::StatusOr<PrefixMatch> match = client_->Match(chain);
    const absl::Time matched = absl::Now();
    Longest(0, matched - start);
    if (!match.ok()) return Fault(match.status());
    size_t delivered = 0;
    v1::MissReason miss = match->miss();
    if (match->blocks() > 0) {
      const absl::StatusOr<GetResult> got = client_->Get(chain, {0, match->blocks()}, pages_);
      Longest(1, absl::Now() - matched);
      if (!got.ok()) return Fault(got.status());
      delivered = got->blocks;
      if (got->miss != v1::MISS_REASON_UNSPECIFIED) miss = got->miss;
      Compare(chain, delivered);
      std::lock_guard lock(figures_->mutex);
      figures_->bytes += got->fetched_bytes;
    }
    {
      std::lock_guard lock(figures_->mutex);
      figures_->reads += chain.size();
      figures_->hits += delivered;
      figures_->reads_by_owner[owner] += chain.size();
      if (delivered < chain.size()) {
        figures_->misses[MissReasonName(miss)] += chain.size() - delivered;
        figures_->misses_by_owner[owner] += chain.size() - delivered;
      }
    }
    if (delivered < chain.size() && !flags_.read_only) Put(chain);
  }

 private:
  int Pick() {
    if (flags_.zipf <= 0) return static_cast<int>(random_() % flags_.prompts);
    const double u = std::uniform_real_distribution<double>(0, 1)(random_);  // by the inverse of a continuous zipf
    const double s = 1 - flags_.zipf, n = flags_.prompts;
    const double x = std::abs(s) < 1e-9 ? std::pow(n, u) : std::pow(u * (std::pow(n, s) - 1) + 1, 1 / s);
    return std::min(flags_.prompts - 1, static_cast<int>(x) - 1);
  }

  std::vector<Key> ChainOf(int prompt) {
    std::vector<uint32_t> tokens(flags_.blocks * kTokens);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<uint32_t>(Mix((static_cast<uint64_t>(prompt) << 32) + i + flags_.seed * 77) % 50000);
    }
    return client_->Keys(tokens);
  }

  // The values of one block's row (K or V of one layer): what Put writes and Get must bring.
  static void ExpectedRow(const Key& key, size_t row, uint16_t* out) {
    uint64_t state = key.Prefix64() + row * 0x51ed2701;
    for (size_t i = 0; i < kTokens * kHeadDim; i += 4) {
      const uint64_t word = Mix(state + i);
      for (size_t j = 0; j < 4; ++j) out[i + j] = static_cast<uint16_t>(word >> (16 * j)) & 0xbfff;  // no NaN, no Inf
    }
  }
  uint16_t* Row(size_t row, size_t block) {
    return values_.data() + (row * flags_.blocks + block) * kTokens * kHeadDim;
  }
  size_t Rows() const { return 2 * flags_.layers; }

  void Compare(const std::vector<Key>& chain, size_t blocks) {
    uint16_t expected[kTokens * kHeadDim];
    for (size_t block = 0; block < blocks; ++block) {
      for (size_t row = 0; row < Rows(); ++row) {
        ExpectedRow(chain[block], row, expected);
        if (std::equal(expected, expected + kTokens * kHeadDim, Row(row, block))) continue;
        std::lock_guard lock(figures_->mutex);
        ++figures_->wrong;
        figures_->example = "wrong values in block " + chain[block].Hex();
        return;
      }
    }
    for (size_t row = 0; row < Rows(); ++row) {  // what is not written next time must not look right
      std::fill(Row(row, 0), Row(row, 0) + kTokens * kHeadDim * flags_.blocks, uint16_t{0xffff});
    }
  }

  bool Put(const std::vector<Key>& chain) {
    for (size_t block = 0; block < chain.size(); ++block) {
      for (size_t row = 0; row < Rows(); ++row) ExpectedRow(chain[block], row, Row(row, block));
    }
    const absl::Time start = absl::Now();
    const absl::StatusOr<PutResult> put = client_->Put(
        chain, ContiguousPages<const uint16_t>(values_.data(), client_->ns().Shape(), flags_.blocks * kTokens));
    Longest(2, absl::Now() - start);
    if (!put.ok()) {
      Fault(put.status());
      return false;
    }
    std::lock_guard lock(figures_->mutex);
    figures_->stored += put->stored;
    figures_->put_failures += put->failed;
    if (put->failed > 0) figures_->example = put->failure;
    return put->failed == 0;
  }

  void Longest(size_t what, absl::Duration took) {
    std::lock_guard lock(figures_->mutex);
    figures_->longest[what] = std::max(figures_->longest[what], absl::ToDoubleSeconds(took));
  }
  void Fault(const absl::Status& status) {
    std::lock_guard lock(figures_->mutex);
    ++figures_->faults;
    figures_->example = status.ToString();
  }

  const Flags flags_;
  const int number_;
  Figures* const figures_;
  std::mt19937_64 random_;
  std::unique_ptr<Client> client_;
  View first_view_;
  std::string problem_;
  std::vector<uint16_t> values_;
  Pages pages_;
};

void Print(Figures* figures, double seconds, bool final) {
  std::lock_guard lock(figures->mutex);
  const Json line = {{"final", final},
                     {"seconds", seconds},
                     {"reads", figures->reads},
                     {"hits", figures->hits},
                     {"wrong", figures->wrong},
                     {"bytes", figures->bytes},
                     {"stored", figures->stored},
                     {"put_failures", figures->put_failures},
                     {"faults", figures->faults},
                     {"misses", figures->misses},
                     {"reads_by_owner", figures->reads_by_owner},
                     {"misses_by_owner", figures->misses_by_owner},
                     {"longest_match_s", figures->longest[0]},
                     {"longest_get_s", figures->longest[1]},
                     {"longest_put_s", figures->longest[2]},
                     {"example", figures->example}};
  std::puts(line.dump().c_str());
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("A worker that knows every byte it should get");
  app.add_option("--seeds", flags.seeds)->required();
  app.add_option("--clients", flags.clients);
  app.add_option("--seconds", flags.seconds);
  app.add_option("--prompts", flags.prompts);
  app.add_option("--blocks", flags.blocks);
  app.add_option("--layers", flags.layers);
  app.add_option("--replicas", flags.replicas);
  app.add_option("--zipf", flags.zipf);
  app.add_option("--deadline", flags.deadline);
  app.add_option("--seed", flags.seed);
  app.add_option("--max-reads", flags.max_reads);
  app.add_flag("--read-only", flags.read_only);
  app.add_flag("--fill-only", flags.fill_only);
  CLI11_PARSE(app, argc, argv);
  const std::unique_ptr<Transport> transport = NewGrpcTransport();
  Figures figures;
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < flags.clients; ++i) {
    workers.push_back(std::make_unique<Worker>(flags, i, transport.get(), &figures));
    if (!workers.back()->problem().empty()) {
      std::fprintf(stderr, "oracle_worker: %s\n", workers.back()->problem().c_str());
      return 1;
    }
  }
  const absl::Time start = absl::Now(), end = start + absl::Seconds(flags.seconds);
  std::atomic<int> running = flags.clients;
  std::vector<std::thread> threads;
  for (const std::unique_ptr<Worker>& worker : workers) {
    threads.emplace_back([&, worker = worker.get()] {
      if (flags.fill_only) worker->Fill(flags.clients);
      while (!flags.fill_only && absl::Now() < end) {
        worker->ReadOnce();
        std::lock_guard lock(figures.mutex);
        if (flags.max_reads > 0 && figures.reads >= flags.max_reads) break;
      }
      --running;
    });
  }
  for (absl::Time next = start + absl::Seconds(1); running > 0; next += absl::Seconds(1)) {
    while (running > 0 && absl::Now() < next) absl::SleepFor(absl::Milliseconds(5));
    if (running > 0) Print(&figures, absl::ToDoubleSeconds(absl::Now() - start), false);
  }
  for (std::thread& thread : threads) thread.join();
  Print(&figures, absl::ToDoubleSeconds(absl::Now() - start), true);
  return figures.wrong > 0 ? 3 : 0;
}

}  // namespace
}  // namespace kvist

int main(int argc, char** argv) { return kvist::Main(argc, argv); }
