// Writes the inputs that are not text: `make_corpus FOLDER` fills FOLDER/<target>/. The committed corpus was made by
// it; a change of a format, or of how a target reads its input, is followed by running it again.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "kernels/codec.h"
#include "kernels/half.h"
#include "kvist/v1/cache.pb.h"
#include "kvist/v1/cluster.pb.h"

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

Bytes EncodedBlock(const BlockShape& shape, Codec codec, uint32_t first_position, float floor_db, bool with_infinity) {
  std::vector<uint16_t> values = NormalValues(shape, shape.head_dim);
  if (with_infinity) values[5] = Narrow(INFINITY, shape.dtype);
  BlockIdentity identity;
  for (size_t i = 0; i < identity.key.size(); ++i) identity.key[i] = static_cast<uint8_t>(i + 1);
  identity.first_position = first_position;
  std::vector<uint8_t> block(MaxBlockBytes(shape, codec));
  const auto size = Encode(identity, shape, ContiguousPages<const uint16_t>(values.data(), shape, shape.tokens),
                           {codec, floor_db}, absl::MakeSpan(block));
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

void WriteBlocks() {
  for (const Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder}) {
    const std::string name(CodecName(codec));
    const BlockShape small = {1, 1, 16, 64, Dtype::kBf16}, odd = {1, 1, 16, 80, Dtype::kF16};
    const BlockShape two = {2, 1, 16, 64, Dtype::kF16};
    Write("block_fuzz", name, Choice(1, 0, 0, 0) + EncodedBlock(small, codec, 16, 0, false));
    Write("block_fuzz", name + "-odd", Choice(1, 0, 1, 0) + EncodedBlock(odd, codec, 0, 0, false));
    Write("block_fuzz", name + "-two-layers", Choice(2, 0, 0, 100) + EncodedBlock(two, codec, 0, 0, false));
    Write("block_fuzz", name + "-raised", Choice(1, 0, 0, 1) + EncodedBlock(small, codec, 0, 60, false));
    Write("block_fuzz", name + "-infinite", Choice(1, 0, 0, 0) + EncodedBlock(small, codec, 16, 0, true));
  }
  const Bytes ladder = EncodedBlock({1, 1, 16, 64, Dtype::kBf16}, Codec::kLadder, 16, 0, false);
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
  for (int codec = 0; codec < 3; ++codec) {
    const std::string name = std::to_string(codec);
    Write("encode_fuzz", "normal-bf16-" + name, choice(0, codec, 0, 1, 0) + values(Dtype::kBf16));
    Write("encode_fuzz", "normal-f16-" + name, choice(64 + 1, codec, 0, 0, 0) + values(Dtype::kF16));
    Write("encode_fuzz", "floor-" + name, choice(3, codec, 110, 0, 2) + values(Dtype::kBf16));
    Write("encode_fuzz", "infinite-" + name, choice(128, codec, 0, 3, 0) + Bytes("\x80\x7f\x01\x00\x80\x3f", 6));
  }
  Write("encode_fuzz", "zeros", choice(4, 2, 0, 0, 0));
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
  return 0;
}
