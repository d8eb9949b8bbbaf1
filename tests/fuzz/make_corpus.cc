// Writes the inputs that are not text: `make_corpus FOLDER` fills FOLDER/<target>/. The committed corpus was made by
// it; a change of a format, or of how a target reads its input, is followed by running it again.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "etcd/rpc.pb.h"
#include "kernels/codec.h"
#include "kernels/half.h"
#include "kvist/v1/cache.pb.h"
#include "kvist/v1/cluster.pb.h"
#include "tests/fuzz/client_corpus.h"
#include "tests/kernels/q/synthetic_profile.h"

namespace kvist {
namespace {

using Bytes = std::string;

std::filesystem::path folder;

void Write(const std::string& target, const std::string& name, const Bytes& bytes) {
  std::filesystem::create_directories(folder / target);
  std::ofstream file(folder / target / name, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) {
    std::fprintf(stderr, "cannot write %s/%s\n", target.c_str(), name.c_str());
    std::exit(1);
  }
}

std::vector<uint16_t> NormalValues(const BlockShape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(shape.Elements());
  for (uint16_t& value : values) value = Narrow(normal(random), shape.dtype);
  return values;
}

Bytes EncodedBlock(const BlockShape& shape, const EncodeOptions& options, uint32_t first_position, bool with_infinity) {
  std::vector<uint16_t> values = NormalValues(shape, shape.head_dim);
  if (with_infinity) values[5] = Narrow(INFINITY, shape.dtype);
  BlockIdentity identity;
  for (size_t i = 0; i < identity.key.size(); ++i) identity.key[i] = static_cast<uint8_t>(i + 1);
  identity.first_position = first_position;
  if (options.profile != nullptr) identity.profile_digest = options.profile->digest();
  std::vector<uint8_t> block(MaxBlockBytes(shape, options.codec));
  const auto size = Encode(identity, shape, ContiguousPages<const uint16_t>(values.data(), shape, shape.tokens),
                           options, absl::MakeSpan(block));
  if (!size.ok()) {
    std::fprintf(stderr, "%s\n", std::string(size.status().message()).c_str());
    std::exit(1);
  }
  return Bytes(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(*size));
}

// Layers [0, 1) or [0, 2), precision and basis as block_fuzz.cc reads them.
Bytes Choice(uint32_t layers, char precision, char basis, char cut) {
  return {static_cast<char>(layers << 2), precision, basis, cut};
}

// Of the profiles that block_fuzz.cc decodes with.
void WriteQBlocks() {
  const Profile profile = MakeProfile({.layers = 2, .layers_between_resets = 0, .layers_before = 1});
  const EncodeOptions options = {.codec = Codec::kQ, .profile = &profile};
  EncodeOptions raised = options;
  raised.floor_db = 60;
  const BlockShape shape = {2, 1, 16, 64, Dtype::kBf16};
  Write("block_fuzz", "q", Choice(2, 0, 0, 0) + EncodedBlock(shape, options, 16, false));
  Write("block_fuzz", "q-first", Choice(2, 6, 0, 100) + EncodedBlock(shape, options, 0, false));
  Write("block_fuzz", "q-raised", Choice(2, 0, 0, 1) + EncodedBlock(shape, raised, 0, false));
  Write("block_fuzz", "q-infinite", Bytes{2 << 2 | 1, 0, 0, 0} + EncodedBlock(shape, options, 16, true));
  const Profile of_groups =
      MakeProfile({.layers = 2, .heads = 2, .layers_between_resets = 0, .layers_before = 1, .groups = 2});
  const EncodeOptions in_groups = {.codec = Codec::kQ, .profile = &of_groups};
  const BlockShape two = {2, 2, 16, 64, Dtype::kF16};
  Write("block_fuzz", "q-groups", Choice(2, 0, 0, 0) + EncodedBlock(two, in_groups, 0, false));
  Write("block_fuzz", "q-groups-infinite", Choice(2, 0, 0, 0) + EncodedBlock(two, in_groups, 16, true));
}

void WriteProfiles() {
  const std::vector<uint8_t> good = WriteOrDie(MakeProfileFile({.layers = 1}));
  const Bytes file(good.begin(), good.end());
  const std::vector<uint8_t> groups = WriteOrDie(MakeProfileFile({.layers = 1, .heads = 2, .groups = 2}));
  Write("profile_fuzz", "good", Bytes(1, 0) + file);
  Write("profile_fuzz", "groups", Bytes(1, 0) + Bytes(groups.begin(), groups.end()));
  Write("profile_fuzz", "cut", Bytes(1, 0) + file.substr(0, 200));
  Bytes damaged = Bytes(1, 0) + file;
  damaged[damaged.size() - 9] ^= 1;
  Write("profile_fuzz", "damaged", damaged);
  Write("profile_fuzz", "frequency", Bytes("\x01\x00\x05\x00\x07\x00", 6));
  Write("profile_fuzz", "mean", Bytes("\x01\x04\x05\x00\x80\x3f", 6));
  Write("profile_fuzz", "singular", Bytes("\x01\x0e\x00\x00\x05\x00", 6));
  Write("profile_fuzz", "heads", Bytes("\x01\x0f\x00\x00\x03\x00", 6));
  Write("profile_fuzz", "group-count", Bytes("\x01\x10\x00\x00\x01\x00", 6));
  Write("profile_fuzz", "sensitivity", Bytes("\x01\x11\x00\x00\x80\xbf", 6));
}

void WriteBlocks() {
  WriteQBlocks();
  WriteProfiles();
  for (const Codec codec : kUncalibratedCodecs) {
    const std::string name(CodecName(codec));
    const bool wide = TakesDtype(codec, Dtype::kBf16);
    const BlockShape small = {1, 1, 16, 64, wide ? Dtype::kBf16 : Dtype::kF8E4M3};
    const BlockShape odd = {1, 1, 16, wide ? 80u : 72u, wide ? Dtype::kF16 : Dtype::kU8};
    const BlockShape two = {2, 1, 16, 64, wide ? Dtype::kF16 : Dtype::kF8E5M2};
    Write("block_fuzz", name, Choice(1, 0, 0, 0) + EncodedBlock(small, {codec}, 16, false));
    Write("block_fuzz", name + "-odd", Choice(1, 0, 1, 0) + EncodedBlock(odd, {codec}, 0, false));
    Write("block_fuzz", name + "-two-layers", Choice(2, 0, 0, 100) + EncodedBlock(two, {codec}, 0, false));
    Write("block_fuzz", name + "-raised", Choice(1, 0, 0, 1) + EncodedBlock(small, {codec, 60}, 0, false));
    Write("block_fuzz", name + "-infinite", Choice(1, 0, 0, 0) + EncodedBlock(small, {codec}, 16, true));
  }
  const Bytes ladder = EncodedBlock({1, 1, 16, 64, Dtype::kBf16}, {Codec::kLadder}, 16, false);
  for (const auto& [key, value] : {std::pair{8, 8}, {8, 3}, {4, 2}, {2, 2}}) {
    const EncodeOptions options = {.codec = Codec::kLadder, .key_bits = key, .value_bits = value};
    const std::string name = "ladder-" + std::to_string(key) + "-" + std::to_string(value);
    Write("block_fuzz", name, Choice(1, 0, 1, 0) + EncodedBlock({1, 1, 16, 80, Dtype::kF16}, options, 0, false));
    Write("block_fuzz", name + "-later",
          Choice(1, 0, 0, 90) + EncodedBlock({1, 1, 16, 64, Dtype::kBf16}, options, 16, false));
  }
  for (const char precision : {1, 2, 3}) {
    Write("block_fuzz", "ladder-precision-" + std::to_string(precision), Choice(1, precision, 1, 60) + ladder);
  }
  Bytes damaged = ladder;
  damaged[kHeaderBytes] ^= 1;
  Write("block_fuzz", "damaged-table", Choice(1, 0, 0, 0) + damaged);
  damaged = ladder;
  damaged[damaged.size() - 1] ^= 1;
  Write("block_fuzz", "damaged-plane", Choice(1, 0, 0, 0) + damaged);
  damaged = ladder;
  damaged[kHeaderBytes + 4 * kPlaneEntryBytes] = 7;  // the first tile's mode
  Write("block_fuzz", "unknown-mode", Choice(1, 0, 0, 0) + damaged);
  Write("block_fuzz", "cut-in-table", Choice(1, 0, 0, 0) + ladder.substr(0, kHeaderBytes + 20));
}

// --- Scripts: numbers in the order in which a target takes them ---

Bytes Le(uint64_t number, int bytes) {
  Bytes text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(number >> (8 * i)));
  return text;
}
Bytes One(uint64_t number) { return Le(number, 1); }
Bytes Str(const std::string& text) { return One(text.size()) + text; }

void WriteValues() {
  const auto values = [](Dtype dtype) {
    Bytes bytes;
    for (const uint16_t value : NormalValues({1, 1, 16, 64, dtype}, 7)) bytes += Le(value, 2);
    return bytes.substr(0, 1200);
  };
  // shape, codec, floor in half dB, position, stride
  const auto choice = [](int shape, int codec, int floor_db, int position, int stride) {
    return One(shape) + One(codec) + One(floor_db) + One(position) + Le(stride, 2);
  };
  for (size_t codec = 0; codec < std::size(kUncalibratedCodecs); ++codec) {
    const std::string name = std::to_string(codec);
    Write("encode_fuzz", "normal-bf16-" + name, choice(0, codec, 0, 1, 0) + values(Dtype::kBf16));
    Write("encode_fuzz", "normal-f16-" + name, choice(64 + 1, codec, 0, 0, 0) + values(Dtype::kF16));
    Write("encode_fuzz", "floor-" + name, choice(3, codec, 110, 0, 2) + values(Dtype::kBf16));
    Write("encode_fuzz", "infinite-" + name, choice(128, codec, 0, 3, 0) + Bytes("\x80\x7f\x01\x00\x80\x3f", 6));
  }
  Write("encode_fuzz", "zeros", choice(4, 2, 0, 0, 0));
  // encode_fuzz.cc reads codec, bits of keys and bits of values from one byte: these are the places in its lists.
  const auto bits = [](Codec codec, int choices, int key, int value) {
    return int(codec) - 1 + int(std::size(kUncalibratedCodecs)) * (key + choices * value);
  };
  for (const auto& [key, value] : {std::pair{0, 0}, {1, 1}, {2, 1}}) {  // of {default, 3, 2}
    const std::string name = "trellis-" + std::to_string(key) + "-" + std::to_string(value);
    const int codec = bits(Codec::kTrellis, 3, key, value);
    Write("encode_fuzz", name, choice(64 + 1, codec, 0, 0, 3) + values(Dtype::kF16));
    Write("encode_fuzz", name + "-later", choice(0, codec, 0, 1, 5) + values(Dtype::kBf16));
  }
  for (const auto& [key, value] : {std::pair{1, 0}, {1, 1}, {1, 3}, {4, 2}}) {  // of {default, 8, 4, 3, 2}
    const std::string name = "ladder-bits-" + std::to_string(key) + "-" + std::to_string(value);
    const int codec = bits(Codec::kLadder, 5, key, value);
    Write("encode_fuzz", name, choice(64 + 1, codec, 0, 0, 3) + values(Dtype::kF16));
    Write("encode_fuzz", name + "-later", choice(0, codec, 0, 1, 5) + values(Dtype::kBf16));
  }
}

Bytes PartInput(const std::vector<int>& cuts, const Bytes& message) {
  Bytes input = One(cuts.size());
  for (const int at : cuts) input += Le(at, 2);
  return input + message;
}

void WriteParts() {
  v1::PutRequest part;
  part.mutable_part()->set_item(3);
  part.mutable_part()->set_offset(1 << 20);
  part.mutable_part()->set_data("the bytes of a block, as many as one likes");
  const Bytes whole = part.SerializeAsString();
  Write("part_fuzz", "part", PartInput({}, whole));
  Write("part_fuzz", "part-in-slices", PartInput({0, 1, 3, 3, 9, 20, 40}, whole));
  Write("part_fuzz", "part-cut-off", PartInput({5}, whole.substr(0, 20)));
  Write("part_fuzz", "data-twice", PartInput({7}, One(0x12) + Str("\x1a\x02hi\x1a\x03you")));
  Write("part_fuzz", "long-varints",
        PartInput({2}, One(0x12) + Str("\x08\x83\x80\x80\x80\x80\x80\x80\x80\x80\x01\x10\x07")));
  v1::PutRequest other;
  other.mutable_part();
  Write("part_fuzz", "part-empty", PartInput({1}, other.SerializeAsString()));
  other.mutable_commit()->set_size_bytes(4096);
  Write("part_fuzz", "commit", PartInput({1}, other.SerializeAsString()));
  other.mutable_reserve()->set_key(Bytes(32, 'k'));
  other.mutable_reserve()->set_size_bytes(4096);
  Write("part_fuzz", "reserve", PartInput({10, 20}, other.SerializeAsString()));
  v1::GetResponse response;
  response.mutable_header()->set_block_bytes(77);
  Write("part_fuzz", "header", PartInput({}, response.SerializeAsString()));
  response.mutable_trailer()->set_hits(2);
  response.mutable_trailer()->mutable_load()->set_queued_bytes(9);
  Write("part_fuzz", "trailer", PartInput({2}, response.SerializeAsString()));
  Write("part_fuzz", "empty", "");
}

void WriteKeys() {
  const auto ns = [](const std::string& model, int layers, int heads, int head_dim, int tokens_per_block) {
    return Str(model) + Str("weights") + One(1) + One(layers) + One(heads) + One(head_dim) + Str("rope") + One(0) +
           One(1) + One(0) + One(2) + One(tokens_per_block) + Bytes(16, 'p') + Str("salt");
  };
  const auto tokens = [](int per_block, int count) {
    Bytes script = One(per_block - 1) + One(count);
    for (int i = 0; i < count; ++i) script += i % 5 == 0 ? One(255) + Le(i * 1000003u, 4) : One(i);
    return script;
  };
  Write("keys_fuzz", "chain", ns("model", 30, 3, 64, 128) + One(3) + One(0) + tokens(4, 23));
  Write("keys_fuzz", "extra", ns("m", 1, 1, 80, 16) + One(0) + One(2) + Str("adapter") + Str("") + tokens(16, 20));
  Write("keys_fuzz", "long-model", One(255) + One('m') + ns("m", 1, 1, 64, 16) + One(0));
  Write("keys_fuzz", "nothing", "");
}

void AddNode(const std::string& id, const std::string& address, v1::NodeState state, double ramp, v1::View* view) {
  v1::NodeRecord* node = view->add_nodes();
  node->set_id(id);
  node->set_address(address);
  node->set_http_address("127.0.0.1:9090");
  node->set_weight(2.5);
  node->set_capacity_bytes(1 << 28);
  node->set_state(state);
  node->set_ramp(ramp);
  node->set_incarnation(17);
  node->set_protocol(1);
}

void WriteViews() {
  v1::View view;
  view.set_number(42);
  AddNode("n0", "127.0.0.1:7070", v1::NODE_STATE_SERVING, 1, &view);
  Write("view_fuzz", "one-node", One(0) + One(1) + view.SerializeAsString());
  AddNode("n1", "[::1]:7071", v1::NODE_STATE_SERVING, 1, &view);
  AddNode("n2", "node-2:7072", v1::NODE_STATE_SERVING, 1, &view);
  Write("view_fuzz", "three-nodes", One(1) + One(9) + view.SerializeAsString());
  AddNode("n3", "h:1", v1::NODE_STATE_JOINING, 0.25, &view);
  AddNode("n4", "h:2", v1::NODE_STATE_DRAINING, 1, &view);
  for (const int seed : {1, 2, 3, 4}) {
    Write("view_fuzz", "changing-" + std::to_string(seed), One(0) + One(seed) + view.SerializeAsString());
  }
  view.mutable_nodes(2)->set_protocol(2);
  Write("view_fuzz", "later-protocol", One(3) + One(5) + view.SerializeAsString());
  view.mutable_nodes(0)->set_weight(-1);
  Write("view_fuzz", "negative-weight", One(0) + One(5) + view.SerializeAsString());
  Write("view_fuzz", "no-protobuf", One(0) + One(0) + Bytes("\x0a\xff\xff", 3));
  v1::View draining;
  draining.set_number(1);
  AddNode("n0", "h:1", v1::NODE_STATE_DRAINING, 1, &draining);
  AddNode("n1", "h:2", v1::NODE_STATE_JOINING, 0, &draining);
  Write("view_fuzz", "nobody-takes-blocks", One(1) + One(5) + draining.SerializeAsString());
}

void WriteAllocations() {
  const auto take = [](uint64_t bytes, bool large) { return One(large) + Le(bytes - 1, 3); };
  const auto give_back = [](int which) { return One(2) + Le(which, 4); };
  const auto shrink = [](int which, uint64_t kept) { return One(3) + Le(which | (kept - 1) << 8, 4); };
  Bytes fill = Le(2047, 2), split = Le(6 * 256 - 1, 2), shrunk = Le(65535, 2);
  for (int i = 0; i < 9; ++i) fill += take(20000 + 7 * i, false);
  for (int i = 0; i < 9; ++i) fill += give_back(i);
  for (int i = 0; i < 6; ++i) split += take(16384, false);
  for (const int which : {0, 1, 1}) split += give_back(which);
  split += take(3 * 16384 - 500, true) + take(90000, true) + give_back(0) + take(64, false);
  for (int i = 0; i < 8; ++i) shrunk += take(400000 + 1000 * i, true) + shrink(i, 777 * (i + 1));
  Write("allocator_fuzz", "fill-and-return", fill);
  Write("allocator_fuzz", "split", split);
  Write("allocator_fuzz", "shrink", shrunk);
  Write("allocator_fuzz", "smallest", Le(0, 2) + take(1, false) + take(1, false));
}

// Acts of host_tier_fuzz.cc, with what each takes.
void WriteTierScripts() {
  const auto reserve = [](int key, int size_bytes, int lives) {
    return One(0) + One(key) + Le(size_bytes - 1, 2) + One(0) + One(lives);
  };
  const auto finish = [](int how) { return One(2) + One(0) + One(how); };
  const auto get = [](int key, int how) { return One(3) + One(key) + One(how); };
  const Bytes let_go = One(4) + One(0);
  const auto match = [](int first, int count, int ttl) { return One(5) + One(first) + One(count - 1) + One(ttl); };
  const auto release = [](int id) { return One(6) + Le(id, 2); };
  const auto erase = [](int key, int why) { return One(7) + One(key) + One(why); };
  const auto later = [](int seconds) { return One(8) + One(seconds); };
  Bytes fill = One(1);
  for (int key = 0; key < 12; ++key) fill += reserve(key, 14000 + 100 * key, 0) + finish(7);
  Write("host_tier_fuzz", "fill-and-evict",
        fill + get(0, 1) + get(11, 3) + erase(11, 0) + reserve(1, 60000, 0) + finish(1) + let_go);
  Write("host_tier_fuzz", "all-leased",
        fill + match(5, 3, 9) + match(8, 4, 31) + release(1) + later(10) + reserve(2, 65000, 0) + finish(200));
  Write("host_tier_fuzz", "all-held",
        One(0) + reserve(0, 60000, 0) + finish(5) + reserve(1, 60000, 0) + finish(5) + get(0, 3) + get(1, 3) +
            reserve(2, 60000, 0) + erase(0, 1) + let_go + reserve(2, 50000, 0) + finish(0));
  Write("host_tier_fuzz", "expiry",
        One(3) + reserve(4, 5000, 18) + finish(9) + reserve(5, 5000, 20) + finish(9) + match(4, 2, 20) + get(4, 3) +
            later(3) + get(4, 1) + later(15) + let_go + get(5, 1) + reserve(6, 100, 16) + reserve(7, 100, 17) +
            later(2) + finish(9) + get(7, 0));
  Write("host_tier_fuzz", "refused",
        One(0) + reserve(0, 65536, 0) + reserve(1, 65000, 0) + reserve(2, 1000, 0) + finish(8) + get(2, 1) +
            match(0, 6, 0));
}

// Keys and namespaces of node_under_test.h; the store holds keys 0 to 2 in namespace A.
Bytes KeyBytes(std::initializer_list<int> numbers) {
  Bytes keys;
  for (const int number : numbers) keys += Bytes(32, static_cast<char>(number + 1));
  return keys;
}
const Bytes kNamespaceA(16, 'A');

template <typename Request, typename Fill>
void WriteRequest(int method, const std::string& name, const Fill& fill) {
  Request request;
  fill(&request);
  Write("requests_fuzz", name, One(method) + request.SerializeAsString());
}

void WriteStreamRequests() {
  WriteRequest<v1::GetRequest>(1, "get", [](auto* request) {
    request->set_keys(KeyBytes({0, 1, 5, 2}));
    request->set_namespace_digest(kNamespaceA);
    request->set_view(7);
  });
  WriteRequest<v1::GetRequest>(1, "get-lower-precision", [](auto* request) {
    request->set_keys(KeyBytes({2}));
    request->set_last_layer(1);
    request->set_precision(2);
  });
  WriteRequest<v1::GetRequest>(1, "get-other-namespace", [](auto* request) {
    request->set_keys(KeyBytes({0}));
    request->set_namespace_digest(Bytes(16, 'B'));
  });
  WriteRequest<v1::GetRequest>(1, "get-half-a-key", [](auto* request) { request->set_keys("abc"); });
  WriteRequest<v1::PutRequest>(2, "put-reserve", [](auto* request) {
    v1::PutReserve* reserve = request->mutable_reserve();
    reserve->set_key(KeyBytes({4}));
    reserve->set_segment_head(KeyBytes({3}));
    reserve->set_namespace_digest(kNamespaceA);
    reserve->set_size_bytes(4096);
    reserve->set_replicas(2);
    reserve->set_ttl_ms(60000);
  });
  WriteRequest<v1::PutRequest>(2, "put-copy", [](auto* request) {
    request->mutable_reserve()->set_key(KeyBytes({1}));
    request->mutable_reserve()->set_namespace_digest(kNamespaceA);
    request->mutable_reserve()->set_size_bytes(1 << 30);
    request->mutable_reserve()->set_copy(true);
  });
}

void WriteRequests() {
  WriteRequest<v1::MatchRequest>(0, "match", [](auto* request) {
    request->add_chains()->set_keys(KeyBytes({0, 1, 2, 3}));
    request->add_chains()->set_keys(KeyBytes({1, 5}));
    request->add_chains();
    request->set_lease_ms(5000);
    request->set_explain(true);
    request->set_view(3);
  });
  WriteRequest<v1::MatchRequest>(0, "match-probe",
                                 [](auto* request) { request->add_chains()->set_keys(KeyBytes({4})); });
  WriteRequest<v1::MatchRequest>(0, "match-many-chains", [](auto* request) {
    for (int i = 0; i < 100; ++i) request->add_chains();
  });
  WriteRequest<v1::EraseRequest>(3, "erase", [](auto* request) { request->set_keys(KeyBytes({2, 3})); });
  WriteRequest<v1::ReleaseRequest>(4, "release", [](auto* request) {
    for (const uint64_t lease : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) request->add_leases(lease);
  });
  WriteRequest<v1::ExplainRequest>(5, "explain", [](auto* request) {
    request->set_keys(KeyBytes({0, 4}));
    request->set_namespace_digest(Bytes(16, 'B'));
    request->set_namespace_text(R"({"model": "m", "dtype": "f16", "layers": 32, "tp_rank": 0, "rope": "none"})");
    request->set_view(1);
  });
  WriteRequest<v1::ExplainRequest>(5, "explain-present", [](auto* request) { request->set_keys(KeyBytes({0})); });
  WriteRequest<v1::DescribeRequest>(6, "describe", [](auto* request) {
    request->set_namespace_digest(Bytes(16, 'C'));
    request->set_namespace_text(R"({"model": "m", "more": {"a": [1, 2.5, null, "\u00e9"]}})");
  });
  WriteRequest<v1::DescribeRequest>(6, "describe-deep", [](auto* request) {
    request->set_namespace_digest(kNamespaceA);
    request->set_namespace_text(R"({"a":)" + Bytes(300, '[') + Bytes(300, ']') + "}");
  });
  WriteRequest<v1::ReportRequest>(7, "report", [](auto* request) { request->set_keys(KeyBytes({0, 1, 5})); });
  WriteRequest<v1::AdoptRequest>(8, "adopt", [](auto* request) {
    request->set_from("n1");
    request->set_keys(KeyBytes({3, 4}));
    request->set_segment_heads(KeyBytes({3, 3}));
    request->set_namespace_digest(kNamespaceA);
  });
  WriteRequest<v1::DrainRequest>(9, "drain", [](auto* request) {
    request->set_start(true);
    request->set_deadline_ms(60000);
    request->set_budget_bytes(1 << 20);
  });
  Write("requests_fuzz", "no-protobuf", One(0) + "\x0a\xff\xff");
}

// Acts of sessions_fuzz.cc, with what each takes; acts are of the first session.
void WriteSessions() {
  const Bytes begin_put = One(0) + One(20), first = One(0);
  const auto reserve = [&](int key, int ns, int how) { return One(1) + first + One(key) + One(ns) + One(how); };
  const auto write = [&](int from, int to, int how) { return One(2) + first + One(from) + One(to) + One(how); };
  const auto commit = [&](int how) { return One(4) + first + One(how); };
  const Bytes drop_put = One(8) + One(0), drop_get = One(8) + One(1), drop_part = One(8) + One(2);
  const auto put = [&](int key, int ns, int how) {
    return begin_put + reserve(key, ns, how) + write(100, 255, 0) + write(0, 110, 0) + commit(0) + drop_put;
  };
  const auto begin_get = [](std::initializer_list<int> keys, int how) {
    Bytes act = One(5) + One(keys.size()) + One(how);
    for (const int key : keys) act += One(key);
    return act + One(20);
  };
  const auto next = [&](bool keep) { return One(6) + first + One(keep); };
  const auto turn = [](int tenths, bool sweep) { return One(9) + One(tenths) + One(sweep); };
  const auto disturb = [](int how, int key) { return One(10) + One(how + 8 * key); };
  Bytes read;
  for (int i = 0; i < 8; ++i) read += next(i % 2 == 1);
  const Bytes three = put(0, 0, 0) + put(1, 0, 4) + put(2, 1, 64);
  Write("sessions_fuzz", "put-and-get", three + begin_get({0, 1, 2}, 0) + read + drop_get + drop_part + drop_part);
  Write("sessions_fuzz", "part-of-a-block", three + begin_get({2, 5}, 4 + 8 + 32) + read + begin_get({0, 2}, 1) + read);
  Write("sessions_fuzz", "damaged",
        begin_put + reserve(3, 0, 0) + write(0, 255, 8) + commit(0) + begin_get({3}, 0) + read);
  Write("sessions_fuzz", "exists", put(0, 0, 0) + begin_put + reserve(0, 1, 0) + commit(0));
  Write("sessions_fuzz", "copy",
        put(0, 0, 0) + begin_put + reserve(0, 1, 2) + write(0, 255, 0) + commit(0) + drop_put + begin_put +
            reserve(0, 0, 2) + write(0, 255, 0));
  Write("sessions_fuzz", "two-reserves",
        begin_put + reserve(0, 0, 0) + reserve(1, 0, 0) + write(0, 255, 0) + commit(0));
  Write("sessions_fuzz", "wrong-order",
        begin_put + write(0, 255, 0) + commit(0) + drop_put + begin_put + commit(1) + begin_put + reserve(0, 0, 0) +
            write(0, 255, 7) + commit(2));
  Write("sessions_fuzz", "late",
        put(0, 0, 0) + begin_put + reserve(1, 0, 0) + begin_get({0}, 0) + next(false) + turn(199, true) +
            turn(199, true) + next(false) + write(0, 255, 0) + commit(0));
  Bytes many = put(0, 0, 0);
  for (int i = 0; i < 7; ++i) many += begin_get({0}, 0) + begin_put;
  Write("sessions_fuzz", "too-many", many + turn(120, true) + drop_put + drop_get);
  Write("sessions_fuzz", "ended",
        three + begin_get({0, 1}, 0) + next(true) + next(true) + begin_put + reserve(4, 0, 0) + disturb(1, 0) +
            next(false) + write(0, 255, 0) + commit(0) + drop_get + drop_part);
  Write("sessions_fuzz", "draining",
        disturb(0, 0) + begin_put + reserve(0, 0, 0) + disturb(0, 0) + put(1, 1, 8) + turn(100, false) +
            begin_get({1}, 3) + read);
  Write("sessions_fuzz", "erased-while-read",
        three + begin_get({0}, 0) + next(true) + next(true) + disturb(2, 0) + disturb(3, 1) + put(0, 1, 0) +
            next(false) + begin_get({0}, 0) + read + drop_part);
  // A block is stored and erased; the next one in its place is written but for a part of its padding.
  Write("sessions_fuzz", "padding-left-out",
        put(2, 0, 0) + disturb(2, 2) + begin_put + reserve(0, 0, 0) + write(11, 255, 0) + write(0, 8, 0) + commit(0) +
            begin_get({0}, 0) + read);
}

// Acts of etcd_fuzz.cc, with what each takes.
void WriteEtcdScripts() {
  const auto entry = [](int which, int how, int revision) { return One(which) + One(how) + One(revision); };
  const auto list = [](int revision, int cluster, std::initializer_list<Bytes> entries) {
    Bytes act = One(0) + One(revision) + One(cluster) + One(entries.size());
    for (const Bytes& one : entries) act += one;
    return act;
  };
  const auto change = [](int revision, std::initializer_list<Bytes> events) {
    Bytes act = One(1) + One(revision) + One(events.size());
    for (const Bytes& event : events) act += event;
    return act;
  };
  const Bytes put = One(0), gone = One(1);
  const auto turn = [](int seconds) { return One(6) + One(seconds); };
  const auto self = [](int id, bool forget) { return One(7) + One(id) + One(forget); };
  const Bytes three = list(10, 0, {entry(0, 1, 3), entry(1, 2, 4), entry(2, 3, 5)});
  Write("etcd_fuzz", "join-and-leave",
        three + change(11, {put + entry(3, 4, 11)}) + change(12, {gone + entry(1, 0, 12)}) + turn(11));
  Write("etcd_fuzz", "wiped",
        three + self(0, false) + list(2, 1, {entry(4, 1, 1)}) + turn(5) + list(4, 1, {entry(7, 3, 4), entry(0, 1, 3)}) +
            turn(6));
  Write("etcd_fuzz", "most-go-at-once",
        three + change(12, {gone + entry(0, 0, 12), gone + entry(1, 0, 12)}) + turn(4) +
            change(14, {put + entry(0, 33, 14)}) + turn(8));
  Write("etcd_fuzz", "gone-and-back", three + change(13, {gone + entry(1, 0, 12), put + entry(1, 34, 13)}) + turn(1));
  Write("etcd_fuzz", "one-address",
        list(9, 0, {entry(0, 1, 3), entry(1, 1, 4), entry(2, 1, 9)}) + change(11, {gone + entry(2, 0, 11)}));
  Write("etcd_fuzz", "renamed-after-a-wipe", list(200, 0, {entry(0, 1, 150)}) + list(3, 1, {entry(1, 1, 2)}) + turn(3));
  Write("etcd_fuzz", "wrong-records",
        list(10, 0,
             {entry(0, 249, 3), One(1) + One(253) + "{\"id\": \"n1\"}",
              One(6) + "xyz" + One(250) + "0123456789" + One(4)}) +
            three);
  Write("etcd_fuzz", "largest-base",
        three + change(20, {put + entry(7, 0, 20)}) + change(21, {put + entry(3, 4, 21)}) +
            change(22, {gone + entry(3, 4, 22)}));
  Write("etcd_fuzz", "largest-revision",
        One(0) + One(255) + Le(INT64_MAX, 8) + One(0) + One(1) + entry(0, 1, 3) + change(21, {put + entry(3, 4, 21)}));
  etcdserverpb::RangeResponse range;
  range.mutable_header()->set_revision(77);
  range.mutable_header()->set_cluster_id(3);
  etcdserverpb::KeyValue* kv = range.add_kvs();
  kv->set_key("/kvist/c/nodes/n0");
  kv->set_value(
      R"({"id": "n0", "address": "h:1", "weight": 1, "state": "NODE_STATE_SERVING", "ramp": 1, "protocol": 1})");
  kv->set_mod_revision(70);
  kv->set_lease(12);
  etcdserverpb::WatchResponse watch;
  watch.mutable_header()->set_revision(78);
  watch.add_events()->mutable_kv()->set_key("/kvist/c/nodes/n0");
  watch.mutable_events(0)->set_type(etcdserverpb::Event::DELETE);
  const Bytes listing = range.SerializeAsString(), events = watch.SerializeAsString();
  Write("etcd_fuzz", "raw",
        One(4) + Le(listing.size(), 2) + listing + One(5) + Le(events.size(), 2) + events + turn(12));
}

}  // namespace
}  // namespace kvist

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  kvist::folder = argv[1];
  kvist::WriteBlocks();
  kvist::WriteValues();
  kvist::WriteParts();
  kvist::WriteKeys();
  kvist::WriteViews();
  kvist::WriteAllocations();
  kvist::WriteTierScripts();
  kvist::WriteStreamRequests();
  kvist::WriteRequests();
  kvist::WriteSessions();
  kvist::WriteEtcdScripts();
  kvist::WriteClientScripts(kvist::Write);
  kvist::WriteAbiScripts(kvist::Write);
  return 0;
}
