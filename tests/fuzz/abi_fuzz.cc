// Goal    No arguments that kvist.h allows or promises to refuse get further than a code and a sentence; what is stored
//         through it comes back, and nothing is written but what a call gives.
// Input   A script: one byte an act, then what its arguments are taken from; which pointers are NULL is one byte of it.
// Method  Over nodes in memory in place of gRPC, on real threads; against the plain set of keys that are stored.
// Buffers
//         are exactly as large as the arguments say.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "services/transport/transport.h"
#include "services/worker/kvist.h"
#include "tests/fuzz/fuzz.h"
#include "tests/services/worker/fake_cluster.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate made("a client is made"), made_otherwise("one of other options"), refused("options are refused"),
    null_gate("a NULL is refused"), small("a buffer is too small"), stored_gate("blocks are stored"),
    found("blocks are found"), delivered("blocks are delivered"), outside("a range outside of the prompt"),
    erased_gate("blocks are erased"), released("leases are released"), text("a text is given"),
    damaged("a damaged block is no block"), said("a node says bytes that are no text"), nothing("no tokens at all");

constexpr int kMostActs = 24;
constexpr size_t kNodes = 2, kHeadDim = 64, kTokensPerBlock = 16;

FakeCluster* cluster = nullptr;  // of the execution

// Connects to the nodes of the execution; at every other address nobody listens.
class FuzzTransport final : public Transport {
 public:
  std::unique_ptr<Channel> Connect(const std::string& address) override {
    static FakeNode* const nobody = new FakeNode;
    for (size_t i = 0; i < kNodes; ++i) {
      if (address == absl::StrCat("n", i, ":1")) return cluster->Connect(address);
    }
    return std::make_unique<FakeChannel>(nobody, /*port=*/0);
  }
};

// Files that cluster_file names.
std::string File(const std::string& content, const char* name) {
  const char* const folder = std::getenv("TEST_TMPDIR");
  std::string path = absl::StrCat(folder == nullptr ? "/tmp" : folder, "/abi_fuzz-", name);
  std::ofstream(path) << content;
  return path;
}
const char* ClusterFile() {
  static const auto* const path = new std::string(File(
      R"({"view": 1, "nodes": [{"id": "n0", "address": "n0:1", "capacity": 1048576},
                               {"id": "n1", "address": "n1:1", "capacity": 1048576}]})",
      "cluster.json"));
  return path->c_str();
}
const char* BrokenFile() {
  static const auto* const path = new std::string(File("{\"view\": 1, \"nodes\": [{}]}", "broken.json"));
  return path->c_str();
}

kvist_namespace PlainNamespace() {
  kvist_namespace ns = {};
  ns.model = "m";
  ns.dtype = "bf16";
  ns.layers = ns.heads = ns.tp_size = ns.pp_size = 1;
  ns.head_dim = kHeadDim;
  ns.tokens_per_block = kTokensPerBlock;
  return ns;
}

// An error that must not stay as it was.
kvist_error Untouched() {
  kvist_error error;
  std::memset(error.message, 'x', sizeof(error.message));
  return error;
}

// What stands in for the message of a call that was given no place for one.
kvist_error Unsaid(kvist_code code) { return code == KVIST_OK ? kvist_error{} : kvist_error{"NULL"}; }

// Every call ends with a code of the header, and with a sentence unless it went well.
kvist_code Checked(kvist_code code, const kvist_error& error) {
  constexpr kvist_code kCodes[] = {KVIST_OK,
                                   KVIST_INVALID_ARGUMENT,
                                   KVIST_DEADLINE_EXCEEDED,
                                   KVIST_NOT_FOUND,
                                   KVIST_RESOURCE_EXHAUSTED,
                                   KVIST_FAILED_PRECONDITION,
                                   KVIST_INTERNAL,
                                   KVIST_UNAVAILABLE,
                                   KVIST_DATA_LOSS,
                                   KVIST_PERMISSION_DENIED,
                                   KVIST_UNAUTHENTICATED};
  KVIST_HOLDS(std::count(std::begin(kCodes), std::end(kCodes), code) == 1, "code ", static_cast<int>(code));
  const void* const end = std::memchr(error.message, '\0', sizeof(error.message));
  KVIST_HOLDS(end != nullptr, "a message without an end");
  KVIST_HOLDS((code == KVIST_OK) == (error.message[0] == '\0'), "code ", static_cast<int>(code), ": ", error.message);
  KVIST_HOLDS(code != KVIST_INTERNAL, error.message);
  return code;
}

template <size_t kSize>
std::string TextOf(const char (&field)[kSize]) {
  KVIST_HOLDS(std::memchr(field, '\0', kSize) != nullptr, "a field without an end");
  return field;
}

struct Prompt {
  std::vector<uint32_t> tokens;
  std::vector<std::string> keys;
  size_t blocks() const { return keys.size(); }
};

class Script {
 public:
  explicit Script(fuzz::Input* input) : input_(input), cluster_(kNodes) {
    cluster = &cluster_;
    kvist_namespace ns = PlainNamespace();
    kvist_options options = {};
    options.cluster_file = ClusterFile();
    options.codec = "raw16";
    kvist_error error = Untouched();
    KVIST_HOLDS(Checked(kvist_client_create(&ns, &options, &client_, &error), error) == KVIST_OK, error.message);
    made.Pass();
  }
  ~Script() { kvist_client_destroy(client_); }

  void Run() {
    for (int i = 0; i < kMostActs && input_->left() > 0; ++i) Act();
  }

 private:
  void Act() {
    const uint64_t act = input_->Below(12);
    nulls_ = input_->Byte();
    if (nulls_ < 192) nulls_ = 0;
    switch (act) {
      case 0:
        return Create();
      case 1:
        return Keys();
      case 2:
      case 3:
        return Put();
      case 4:
        return Match();
      case 5:
      case 6:
        return Get();
      case 7:
        return Erase();
      case 8:
        return Release();
      case 9:
        return Texts();
      case 10:
        return Disturb();
      default:
        KVIST_HOLDS(kvist_abi_version() == KVIST_ABI_VERSION && std::strlen(kvist_version()) > 0, "versions");
        return kvist_client_destroy(nullptr);
    }
  }

  // NULL in place of `pointer`, if the act's byte says so for its argument `i`.
  bool IsNull(int i) const { return (nulls_ >> i & 1) != 0; }
  template <typename T>
  T* OrNull(int i, T* pointer) const {
    return IsNull(i) ? nullptr : pointer;
  }
  kvist_client* ClientOrNull() const { return OrNull(0, client_); }

  // True if the call was refused, as it must be if `null` (a pointer that is needed is NULL).
  bool Refused(kvist_code code, const kvist_error& error, bool null) {
    Checked(code, error);
    if (!null) return code != KVIST_OK;
    KVIST_HOLDS(code == KVIST_INVALID_ARGUMENT && std::strstr(error.message, "NULL") != nullptr, error.message);
    null_gate.Pass();
    return true;
  }

  Prompt AnyPrompt() {
    Prompt prompt;
    const uint32_t first = input_->Byte() % 4 * 1000;
    prompt.tokens.resize(input_->Byte() % 101);
    for (size_t i = 0; i < prompt.tokens.size(); ++i) prompt.tokens[i] = first + static_cast<uint32_t>(i);
    std::vector<uint8_t> keys(prompt.tokens.size() / kTokensPerBlock * Key::kBytes);
    size_t count = 0;
    const kvist_code code = kvist_keys(client_, prompt.tokens.data(), prompt.tokens.size(), keys.data(),
                                       keys.size() / Key::kBytes, &count, nullptr);
    KVIST_HOLDS(code == KVIST_OK && count * Key::kBytes == keys.size(), count, " keys");
    for (size_t i = 0; i < count; ++i)
      prompt.keys.emplace_back(keys.begin() + i * Key::kBytes, keys.begin() + (i + 1) * Key::kBytes);
    return prompt;
  }

  const uint32_t* TokensOf(const Prompt& prompt) const { return OrNull(1, prompt.tokens.data()); }
  bool TokensMissing(const Prompt& prompt) const { return IsNull(1) && !prompt.tokens.empty(); }

  size_t Leading(const Prompt& prompt) const {
    return std::find_if(prompt.keys.begin(), prompt.keys.end(),
                        [this](const std::string& key) { return stored_.count(key) == 0; }) -
           prompt.keys.begin();
  }

  // --- Create ---
  const char* AnyText(std::initializer_list<const char*> usual) {
    const uint8_t which = input_->Byte();
    if (which < 200) return usual.begin()[which % usual.size()];
    if (which == 255) return texts_.emplace_back(5000, 'x').c_str();
    return texts_.emplace_back(input_->Text(which % 32)).c_str();
  }
  uint32_t AnyNumber(std::initializer_list<uint32_t> usual) {
    const uint8_t which = input_->Byte();
    return which < 224 ? usual.begin()[which % usual.size()] : static_cast<uint32_t>(input_->Number(4));
  }

  void Create() {
    texts_.clear();
    texts_.reserve(16);  // pointers into it must stay
    kvist_namespace ns = PlainNamespace();
    ns.model = AnyText({"m", "m", "other", nullptr});
    ns.weights_digest = AnyText({"", "w", nullptr});
    ns.dtype = AnyText({"bf16", "f16", "bf16", nullptr});
    ns.rope = AnyText({"", nullptr});
    ns.tenant_salt = AnyText({"", nullptr, "salt"});
    ns.layers = AnyNumber({1, 2, 1024});
    ns.heads = AnyNumber({1, 8});
    ns.head_dim = AnyNumber({64, 128, 80});
    ns.tp_rank = AnyNumber({0, 0, 1});
    ns.tp_size = AnyNumber({1, 2});
    ns.pp_size = AnyNumber({1, 1, 0});
    ns.tokens_per_block = AnyNumber({16, 128, 256});
    kvist_options options = {};
    options.codec = AnyText({nullptr, "raw16", "i8", "ladder"});
    const std::array<const char*, 6> files = {ClusterFile(), ClusterFile(), nullptr, "", BrokenFile(), "/nowhere/c"};
    options.cluster_file = files[input_->Byte() % files.size()];
    options.seeds = AnyText({nullptr, nullptr, "n0:1", " n1:1 , n9:1,", "n0:0"});
    const uint32_t floor_bits = AnyNumber({0, 0, 0x41a00000, 0x7fc00000, 0x80000000});
    std::memcpy(&options.floor_db, &floor_bits, sizeof(floor_bits));
    options.min_precision = AnyNumber({0, 0, 4, 17});
    options.lease_ms = AnyNumber({0, 1, 600000});
    options.threads = AnyNumber({0, 1, 256});
    options.replicas = AnyNumber({0, 1, 3});
    // Seeds that do not answer are asked until the deadline, by the real clock.
    options.deadline_ms = AnyNumber({20, 1, 600000, 600001});
    if (options.cluster_file != ClusterFile() && options.deadline_ms <= 600000) options.deadline_ms %= 20;
    if (options.deadline_ms == 0) options.deadline_ms = 7;
    kvist_client* client = reinterpret_cast<kvist_client*>(&options);  // must not stay
    kvist_error error = Untouched();
    const kvist_code code =
        kvist_client_create(OrNull(0, &ns), OrNull(1, &options), OrNull(2, &client), OrNull(3, &error));
    if (IsNull(3)) error = Unsaid(code);
    if (Refused(code, error, (nulls_ & 7) != 0)) {
      KVIST_HOLDS(IsNull(2) || client == nullptr, "a client in spite of: ", error.message);
      return refused.Pass();
    }
    made_otherwise.Pass();
    Prompt none;
    kvist_match_result result;
    error = Untouched();
    Checked(kvist_match(client, nullptr, 0, &result, &error), error);
    kvist_client_destroy(client);
  }

  void Keys() {
    const Prompt prompt = AnyPrompt();
    const size_t capacity = input_->Byte() % 8;
    std::vector<uint8_t> keys(capacity * Key::kBytes, 0xee);
    size_t count = 99;
    kvist_error error = Untouched();
    const bool null = IsNull(0) || TokensMissing(prompt) || (IsNull(2) && capacity > 0) || IsNull(3);
    if (Refused(kvist_keys(ClientOrNull(), TokensOf(prompt), prompt.tokens.size(), OrNull(2, keys.data()), capacity,
                           OrNull(3, &count), &error),
                error, null)) {
      if (null) return;
      KVIST_HOLDS(capacity < prompt.blocks() && count == prompt.blocks(), error.message);
      KVIST_HOLDS(std::count(keys.begin(), keys.end(), 0xee) == static_cast<std::ptrdiff_t>(keys.size()), "keys");
      return small.Pass();
    }
    KVIST_HOLDS(count == prompt.blocks() && count <= capacity, count);
  }

  // --- Blocks ---
  static uint16_t Value(const Prompt& prompt, size_t row, size_t token, size_t i) {
    return static_cast<uint16_t>(0x3f00 + (prompt.tokens[token] * 7 + row * 3 + i) % 200);
  }
  size_t AnyCapacity(const Prompt& prompt) {
    const uint8_t how = input_->Byte();
    return how < 192 ? prompt.tokens.size() + how % 3 : how % 64;
  }

  void Put() {
    const Prompt prompt = AnyPrompt();
    size_t capacity = AnyCapacity(prompt);
    std::vector<uint16_t> kv(2 * capacity * kHeadDim);
    for (size_t at = 0; at < kv.size(); ++at) {
      const size_t row = at / (capacity * kHeadDim), token = at / kHeadDim % capacity;
      if (token < prompt.tokens.size()) kv[at] = Value(prompt, row, token, at % kHeadDim);
    }
    const bool no_kv = IsNull(2) || (prompt.tokens.empty() && input_->Flag());
    if (no_kv) capacity = input_->Flag() ? std::numeric_limits<size_t>::max() : capacity;
    kvist_put_result result;
    kvist_error error = Untouched();
    const bool null = IsNull(0) || TokensMissing(prompt) || (no_kv && !prompt.tokens.empty()) || IsNull(3);
    if (Refused(kvist_put(ClientOrNull(), TokensOf(prompt), prompt.tokens.size(), no_kv ? nullptr : kv.data(), capacity,
                          OrNull(3, &result), &error),
                error, null)) {
      KVIST_HOLDS(null || capacity < prompt.blocks() * kTokensPerBlock, error.message);
      return null ? void() : small.Pass();
    }
    KVIST_HOLDS(result.stored + result.present + result.failed == prompt.blocks(), result.stored, " stored");
    KVIST_HOLDS((result.failed > 0) == !TextOf(result.failure).empty(), result.failure);
    if (prompt.tokens.empty()) nothing.Pass();
    if (result.failed > 0) return Uncertain();
    stored_.insert(prompt.keys.begin(), prompt.keys.end());
    if (result.stored > 0) stored_gate.Pass();
  }

  // What could not be stored or erased in time leaves nothing to compare with.
  void Uncertain() { certain_ = false; }

  // Fewer blocks than are stored only for want of time: the machine is busy.
  void CheckCount(size_t blocks, size_t expected, const std::string& miss) {
    if (!certain_ || miss == "owner_down" || miss == "deadline") return;
    KVIST_HOLDS(blocks == expected, blocks, " blocks, not ", expected, ": ", miss);
  }

  void Match() {
    const Prompt prompt = AnyPrompt();
    kvist_match_result result;
    kvist_error error = Untouched();
    const bool null = IsNull(0) || TokensMissing(prompt) || IsNull(2);
    const kvist_code code =
        kvist_match(ClientOrNull(), TokensOf(prompt), prompt.tokens.size(), OrNull(2, &result), OrNull(3, &error));
    if (IsNull(3)) error = Unsaid(code);
    if (Refused(code, error, null)) {
      KVIST_HOLDS(null, error.message);
      return;
    }
    const std::string miss = TextOf(result.miss_reason);
    KVIST_HOLDS(result.tokens == result.blocks * kTokensPerBlock, result.tokens);
    KVIST_HOLDS((result.blocks == prompt.blocks()) == miss.empty(), miss);
    KVIST_HOLDS(miss.empty() == TextOf(result.miss_node).empty(), result.miss_node);
    CheckCount(result.blocks, Leading(prompt), miss);
    if (result.blocks > 0) found.Pass();
    if (result.match_id != 0) matches_.push_back(result.match_id);
  }

  void Get() {
    const Prompt prompt = AnyPrompt();
    size_t capacity = AnyCapacity(prompt);
    const uint8_t how = input_->Byte();
    uint32_t first = how % 4, last = how / 4 % 8;
    if (how >= 224) first = static_cast<uint32_t>(input_->Number(4)), last = static_cast<uint32_t>(input_->Number(4));
    std::vector<uint16_t> kv(2 * capacity * kHeadDim, 0xdead);
    const bool no_kv = IsNull(2);
    if (no_kv) capacity = input_->Flag() ? std::numeric_limits<size_t>::max() : capacity;
    kvist_get_result result;
    kvist_error error = Untouched();
    const bool null = IsNull(0) || TokensMissing(prompt) || (no_kv && first != last) || IsNull(3);
    if (Refused(kvist_get(ClientOrNull(), TokensOf(prompt), prompt.tokens.size(), first, last,
                          no_kv ? nullptr : kv.data(), capacity, OrNull(3, &result), &error),
                error, null)) {
      const bool inside = first <= last && last <= prompt.blocks();
      KVIST_HOLDS(null || !inside || capacity < last * kTokensPerBlock, error.message);
      if (!null) (inside ? small : outside).Pass();
      return;
    }
    const std::string miss = TextOf(result.miss_reason);
    KVIST_HOLDS(result.blocks <= last - first && result.tokens == result.blocks * kTokensPerBlock, result.blocks);
    KVIST_HOLDS((result.blocks == last - first) == miss.empty(), miss);
    size_t expected = 0;
    while (expected < last - first && stored_.count(prompt.keys[first + expected]) > 0) ++expected;
    CheckCount(result.blocks, expected, miss);
    if (!no_kv) CheckPages(prompt, kv, capacity, first, last, result.blocks);
    if (result.blocks > 0) delivered.Pass();
  }

  void CheckPages(const Prompt& prompt, const std::vector<uint16_t>& kv, size_t capacity, size_t first, size_t last,
                  size_t blocks) {
    for (size_t at = 0; at < kv.size(); ++at) {
      const size_t row = at / (capacity * kHeadDim), token = at / kHeadDim % capacity, block = token / kTokensPerBlock;
      if (block < first || block >= last) {
        KVIST_HOLDS(kv[at] == 0xdead, "token ", token, " is written outside of the range");
      } else if (block < first + blocks) {
        KVIST_HOLDS(kv[at] == Value(prompt, row, token, at % kHeadDim), "token ", token, " is not what was stored");
      }
    }
  }

  void Erase() {
    const Prompt prompt = AnyPrompt();
    uint32_t erased = 77;
    kvist_error error = Untouched();
    const bool null = IsNull(0) || TokensMissing(prompt) || IsNull(2);
    if (Refused(kvist_erase(ClientOrNull(), TokensOf(prompt), prompt.tokens.size(), OrNull(2, &erased), &error), error,
                null)) {
      return null ? void() : Uncertain();
    }
    size_t expected = 0;
    for (const std::string& key : prompt.keys) expected += stored_.erase(key);
    KVIST_HOLDS(!certain_ || erased == expected, erased, " erased, not ", expected);
    if (erased > 0) erased_gate.Pass();
  }

  void Release() {
    const uint8_t which = input_->Byte();
    const uint64_t id = matches_.empty() || which >= 128 ? input_->Number(8) : matches_[which % matches_.size()];
    kvist_error error = Untouched();
    if (Refused(kvist_release(ClientOrNull(), id, &error), error, IsNull(0))) return;
    if (which < 128 && !matches_.empty()) released.Pass();
  }

  // --- Texts ---
  void Texts() {
    const Prompt prompt = AnyPrompt();
    const uint8_t which = input_->Byte() % 3;
    const size_t capacity = input_->Flag() ? size_t{1} << 16 : input_->Number(2) % 3000;
    std::vector<char> out(capacity, 'x');
    size_t needed = 0;
    kvist_error error = Untouched();
    char* const place = OrNull(2, out.data());
    const bool null = IsNull(0) || (IsNull(2) && capacity > 0) || IsNull(3) || (which == 0 && TokensMissing(prompt));
    kvist_code code = KVIST_OK;
    if (which == 0) {
      code = kvist_explain_json(ClientOrNull(), TokensOf(prompt), prompt.tokens.size(), place, capacity,
                                OrNull(3, &needed), &error);
    }
    if (which == 1) code = kvist_stats_json(ClientOrNull(), place, capacity, OrNull(3, &needed), &error);
    if (which == 2) code = kvist_metrics_text(ClientOrNull(), place, capacity, OrNull(3, &needed), &error);
    if (Refused(code, error, null)) return KVIST_HOLDS(null, error.message);
    KVIST_HOLDS(needed > 1, "an empty text");
    if (needed > capacity) {
      KVIST_HOLDS(std::count(out.begin(), out.end(), 'x') == static_cast<std::ptrdiff_t>(capacity), "a part of a text");
      return small.Pass();
    }
    KVIST_HOLDS(std::strlen(out.data()) + 1 == needed, std::strlen(out.data()), " and NUL are not ", needed);
    KVIST_HOLDS(which == 2 || nlohmann::json::accept(out.data()), "no JSON: ", out.data());
    text.Pass();
  }

  void Disturb() {
    const uint8_t how = input_->Byte();
    FakeNode& node = cluster_.node(how / 8 % kNodes);
    if (how % 8 > 2) return;
    std::lock_guard lock(node.mutex);
    if (how % 8 == 0) {
      node.fault = absl::UnavailableError(input_->Text(8));
      said.Pass();
      return Uncertain();
    }
    const uint8_t which = input_->Byte();
    const uint64_t at = input_->Number(2);
    if (node.blocks.empty()) return;
    auto block = node.blocks.begin();
    std::advance(block, which % node.blocks.size());
    block->second[at % block->second.size()] ^= 1;
    stored_.erase(block->first);
    damaged.Pass();
    Uncertain();  // Match still counts it
  }

  fuzz::Input* const input_;
  FakeCluster cluster_;
  kvist_client* client_ = nullptr;
  uint8_t nulls_ = 0;
  bool certain_ = true;
  std::vector<std::string> texts_;
  std::set<std::string> stored_;
  std::vector<uint64_t> matches_;
};

}  // namespace

std::unique_ptr<Transport> NewGrpcTransport(std::shared_ptr<const TlsIdentity>, std::shared_ptr<BearerToken>) {
  return std::make_unique<FuzzTransport>();
}

}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::fuzz::Input input(data, size);
  kvist::Script(&input).Run();
  return 0;
}
