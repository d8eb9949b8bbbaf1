// What one tenant notices of another that floods the node at ten times its quota: hit rate and p99 of its reads, against
// the same reads while the other is silent. Method: a real kvistd with an access file; a reader in this process; a flooder
// as a process of its own, at the lowest priority (on a real network it has cores of its own), stopped and continued in
// turns. Argument: the path of kvistd.
//
//   tenants_bench [kvistd]
//   tenants_bench --flood ADDRESS TOKEN_FILE     the flooder: writes and reads until it is killed
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/access/access_config.h"
#include "services/cluster/static_file.h"
#include "services/runtime/runtime.h"
#include "services/transport/bearer_token.h"
#include "services/transport/transport.h"
#include "tests/bench/peers.h"
#include "tests/bench/rows.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

constexpr int kRounds = 8, kMostRounds = 40;
constexpr absl::Duration kPhase = absl::Milliseconds(1500);
constexpr uint32_t kLayers = 64;  // 256 KiB a block
// The reader's prompts are 50 MiB, less than its half of 128 MiB. The flooder may hold 32 MiB and writes 320 MiB, and asks ten
// times at once where it may once; what it is refused it tries again at once, whatever the node says.
constexpr int kPrompts = 50, kBlocksOfPrompt = 4, kFloodBlocks = 1280, kFloodThreads = 10;
constexpr double kFloodBytes = 320 << 20;  // ten times what it may hold
constexpr char kAccess[] =
    R"({"tenants": {"steady": {}, "flood": {"host_bytes": "32MiB", "requests": 1}}, "identities": [
    {"identity": "token:steady", "tenant": "steady", "role": "writer"},
    {"identity": "token:flood", "tenant": "flood", "role": "writer"}]})";

void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "bench: %s\n", what.c_str());
  std::exit(1);
}

Key KeyOf(uint64_t number) {
  std::mt19937_64 random(number + 1);
  Key key;
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

void Put(Channel* channel, const Key& key) {
  testing::PutBlock(channel, key, testing::TestBlock(key, kLayers, 1)).IgnoreError();
}

std::unique_ptr<Transport> TransportOf(const std::string& token_file) {
  absl::StatusOr<std::shared_ptr<BearerToken>> token = BearerToken::Load(token_file);
  Require(token.ok(), token.status().ToString());
  return NewGrpcTransport(nullptr, *std::move(token));
}

int Flood(const std::string& address, const std::string& token_file) {
  setpriority(PRIO_PROCESS, 0, 19);
  const std::unique_ptr<Transport> transport = TransportOf(token_file);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kFloodThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const auto channel = transport->Connect(address);
      for (int i = thread;; i = (i + kFloodThreads) % kFloodBlocks) {
        const Key key = KeyOf(1'000'000 + i);
        Put(channel.get(), key);
        testing::GetBlocks(channel.get(), testing::GetRequestFor({key})).status().IgnoreError();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// The reader: prompts by Zipf's law, matched under a lease and fetched; what is missing is put again, uncounted.
class Reader {
 public:
  explicit Reader(Channel* channel) : channel_(channel) {
    std::vector<double> weights;
    for (int i = 1; i <= kPrompts; ++i) weights.push_back(1.0 / i);
    prompts_ = std::discrete_distribution<int>(weights.begin(), weights.end());
    for (int i = 0; i < kPrompts * kBlocksOfPrompt; ++i) Put(channel_, KeyOf(i));
  }

  struct Figures {
    uint64_t hits = 0, asked = 0;
    std::vector<double> ms;  // of each read
  };
  void ReadFor(absl::Duration time, Figures* figures) {
    for (const absl::Time end = absl::Now() + time; absl::Now() < end;) {
      std::vector<Key> keys;
      const int prompt = prompts_(random_);
      for (int i = 0; i < kBlocksOfPrompt; ++i) keys.push_back(KeyOf(prompt * kBlocksOfPrompt + i));
      const absl::Time start = absl::Now();
      v1::MatchRequest match;
      match.add_chains()->set_keys(testing::GetRequestFor(keys).keys());
      match.set_lease_ms(2000);
      const auto matched = channel_->Match(match, testing::In(10));
      const auto got = testing::GetBlocks(channel_, testing::GetRequestFor(keys));
      figures->ms.push_back(absl::ToDoubleMilliseconds(absl::Now() - start));
      Require(matched.ok() && got.ok(), absl::StrCat(matched.status().ToString(), ", ", got.status().ToString()));
      v1::ReleaseRequest release;
      release.add_leases(matched->chains(0).lease());
      channel_->Release(release, testing::In(10)).status().IgnoreError();
      for (size_t i = 0; i < keys.size(); ++i) {
        const bool hit = got->headers[i].miss() == v1::MISS_REASON_UNSPECIFIED;
        figures->hits += hit;
        ++figures->asked;
        if (!hit) Put(channel_, keys[i]);
      }
    }
  }

 private:
  Channel* const channel_;
  std::mt19937 random_{1};
  std::discrete_distribution<int> prompts_;
};

// That the node took from the flooder so far.
double FloodBytes(const std::string& cluster_file) {
  std::string address;
  std::ifstream(HttpAddressFile(cluster_file, NodeId{"n"})) >> address;
  const absl::StatusOr<Address> http = ParseAddress(address);
  Require(http.ok(), http.status().ToString());
  const std::string metrics = testing::HttpGet(*http, "/metrics"),
                    name = "\nkvist_tenant_stored_bytes_total{tenant=\"flood\"} ";
  const size_t at = metrics.find(name);
  Require(at != std::string::npos, "the node tells nothing of the flooder");
  return std::stod(metrics.substr(at + name.size()));
}

double P99(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() * 99 / 100];
}

void WritePrivately(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
  Require(chmod(path.c_str(), 0600) == 0, "chmod");
}

std::string Line(const std::string& name, const std::string& token) {
  const TokenHash hash = HashToken(token);
  return absl::StrCat(
      name,
      " sha256:", absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size())),
      "\n");
}

int Main(const std::string& self, const std::string& kvistd) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / absl::StrCat("kvist-bench-", getpid(), "-tenants");
  std::filesystem::create_directories(folder);
  const std::string cluster = folder / "cluster.json", access = folder / "access.json", tokens = folder / "tokens";
  std::ofstream(cluster) << R"({"view": 1, "nodes": [{"id": "n", "address": "127.0.0.1:0", "capacity": "128MiB"}]})";
  WritePrivately(access, kAccess);
  WritePrivately(tokens, Line("steady", "token-of-the-steady-one") + Line("flood", "token-of-the-flooding-one"));
  WritePrivately(folder / "steady", "token-of-the-steady-one");
  WritePrivately(folder / "flood", "token-of-the-flooding-one");
  const Child node =
      Child::Spawn({kvistd, "--cluster", cluster, "--node", "n", "--access", access, "--tokens", tokens});
  const absl::StatusOr<View> view = LoadView(cluster, testing::In(20), RealRuntime()->clock());
  Require(view.ok(), view.status().ToString());
  const std::string address = view->nodes[0].address.ToString();
  const std::unique_ptr<Transport> transport = TransportOf(folder / "steady");
  const auto channel = transport->Connect(address);
  Reader reader(channel.get());
  const Child flooder = Child::Spawn({self, "--flood", address, folder / "flood"});
  Reader::Figures warm, alone, flooded;
  reader.ReadFor(2 * kPhase, &warm);
  const double before = FloodBytes(cluster);
  for (int round = 0; round < kRounds || (round < kMostRounds && FloodBytes(cluster) - before < kFloodBytes); ++round) {
    flooder.Signal(SIGSTOP);
    reader.ReadFor(kPhase / 5, &warm);  // what the flooder had under way ends
    reader.ReadFor(kPhase, &alone);
    flooder.Signal(SIGCONT);
    reader.ReadFor(kPhase / 5, &warm);
    reader.ReadFor(kPhase, &flooded);
  }
  const double written = FloodBytes(cluster) - before;
  Require(written >= kFloodBytes,
          absl::StrCat("the flooder came to ", written, " bytes only: the machine is too busy"));
  const auto rate = [](const Reader::Figures& figures) { return 100.0 * figures.hits / figures.asked; };
  PrintRow("a tenant's hit rate while another floods at ten times its quota / alone", rate(flooded), rate(alone), "%",
           Target{0.95, Reach::kAtLeast});
  PrintRow("and the p99 of its reads", P99(flooded.ms), P99(alone.ms), "ms", Target{1.5, Reach::kAtMost});
  PrintRow("and their median", Median(flooded.ms), Median(alone.ms), "ms", std::nullopt);
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace kvist

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--flood") return kvist::Flood(argv[2], argv[3]);
  return kvist::Main(argv[0], argc > 1 ? argv[1] : "bazel-bin/services/node/kvistd");
}
