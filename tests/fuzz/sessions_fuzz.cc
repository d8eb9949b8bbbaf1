// Goal    No order of steps of Put and Get sessions makes a node store or send wrong bytes, keep a pin or a
//         reservation, or miscount its load.
// Input   A script: one byte an act, then what it takes.
// Method  Blocks are valid ones of a few keys in two namespaces, sometimes damaged on their way. What a Get sends is
//         compared with the block that was committed; at the end everything has come back.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kvist/v1/cache.pb.h"
#include "services/transport/retry_hint.h"
#include "services/transport/transport.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/node_under_test.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate stored_gate("a block is stored"), damaged_gate("a damaged block is refused"), exists("a block is there already"),
    compared("a copy is compared with the block that is there"), sent_gate("a whole block is sent"),
    partly("part of a block is sent"), missed("a miss"), too_many("a session is refused with a hint"),
    late("a session's deadline passes"), stopped("sessions are ended by the node"), swept("a slow reader is ended"),
    drains("a draining node refuses"), outlives("a part outlives its session");

constexpr int kMostActs = 100;
constexpr size_t kMostSessions = 8;

absl::Span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

struct OpenPut {
  std::unique_ptr<PutSession> session;
  int key = 0, ns = 0;
  bool reserved = false, copy = false, over = false;
  std::string block, written;  // what is to be sent; what was
  std::vector<bool> came;      // which bytes were
  absl::Time deadline;
};

struct OpenGet {
  std::unique_ptr<GetSession> session;
  std::vector<int> keys;
  std::optional<int> ns;
  size_t items = 0;
  uint64_t end = 0, left = 0, sent = 0, hits = 0;  // of the open item: where the last part ended, bytes to come
  bool over = false;
  absl::Time deadline;
};

class Script {
 public:
  explicit Script(fuzz::Input* input) : input_(input) {}

  void Run() {
    for (int i = 0; i < kMostActs && input_->left() > 0; ++i) {
      Act();
      CheckBounds();
    }
    LetGo();
  }

 private:
  void Act() {
    switch (input_->Below(11)) {
      case 0:
        return BeginPut();
      case 1:
        return Reserve();
      case 2:
      case 3:
        return Write();
      case 4:
        return Commit();
      case 5:
        return BeginGet();
      case 6:
      case 7:
        return Next();
      case 8:
        return Drop();
      case 9:
        return Turn();
      default:
        return Disturb();
    }
  }

  // --- Put ---
  void BeginPut() {
    if (puts_.size() >= kMostSessions) return;
    const absl::Time deadline = node_.DeadlineIn(absl::Seconds(1 + input_->Below(30)));
    auto session = node_.handlers->OpenPut(Caller::Anyone(), deadline);
    if (!session.ok()) return CheckRefusal(session.status());
    puts_.push_back({.session = *std::move(session), .block = {}, .written = {}, .came = {}, .deadline = deadline});
  }

  OpenPut* PickPut() { return puts_.empty() ? nullptr : &puts_[input_->Below(puts_.size())]; }

  void Reserve() {
    OpenPut* put = PickPut();
    const int key = static_cast<int>(input_->Below(fuzz::kTestKeys)), ns = static_cast<int>(input_->Below(2));
    const uint8_t how = input_->Byte();
    if (put == nullptr) return;
    v1::PutReserve reserve;
    const Key name = fuzz::TestKey(key);
    reserve.set_key(name.bytes.data(), name.bytes.size());
    reserve.set_namespace_digest(fuzz::TestNamespace(ns));
    reserve.set_size_bytes(fuzz::TestBlock(key, ns).size() + (how & 1) * 1000);
    reserve.set_copy((how & 2) != 0);
    reserve.set_replicas(how >> 6);
    if ((how & 4) != 0) reserve.set_segment_head(reserve.key());
    if ((how & 8) != 0) reserve.set_ttl_ms(1 + how * 50);
    const absl::StatusOr<bool> reserved = put->session->Reserve(reserve);
    KVIST_HOLDS(!put->reserved || !reserved.ok(), "one session reserves twice");
    if (!reserved.ok()) {
      if (absl::IsFailedPrecondition(reserved.status()) && !put->reserved && !put->over) drains.Pass();
      put->over = true;
      return CheckRefusal(reserved.status());
    }
    KVIST_HOLDS(!put->over, "a session that was over reserves");
    if (!*reserved) {
      put->over = true;
      KVIST_HOLDS(!put->session->NotStored().stored(), "not stored");
      return exists.Pass();
    }
    put->reserved = true;
    put->key = key;
    put->ns = ns;
    put->copy = reserve.copy();
    put->block = fuzz::TestBlock(key, ns);
    put->written.assign(reserve.size_bytes(), '\0');
    put->came.assign(reserve.size_bytes(), false);
  }

  void Write() {
    OpenPut* put = PickPut();
    const uint8_t from = input_->Byte(), to = input_->Byte(), how = input_->Byte();
    if (put == nullptr) return;
    std::string part = put->block.substr(put->block.size() * std::min(from, to) / 255);
    const uint64_t offset = how == 7 ? ~uint64_t{0} - 1 : put->block.size() - part.size();
    part.resize(std::min(part.size(), put->block.size() * (std::max(from, to) - std::min(from, to) + 1) / 255));
    if (how == 8 && !part.empty()) part[part.size() / 2] ^= 4;
    const bool over_before = put->session->over();
    const absl::Status written = put->session->Write(offset, BytesOf(part));
    if (!written.ok()) {
      KVIST_HOLDS(!written.message().empty(), "refused without a word");
      put->over = true;
      return;
    }
    if (put->session->over()) {
      KVIST_HOLDS(put->copy, "only a copy is over before its commit");
      if (!over_before) compared.Pass();
      put->over = true;
      return;
    }
    KVIST_HOLDS(put->reserved && !put->over, "a session that was over takes a part");
    if (offset > put->written.size()) return;  // a part without bytes
    put->written.replace(offset, part.size(), part);
    std::fill_n(put->came.begin() + static_cast<std::ptrdiff_t>(offset), part.size(), true);
  }

  void Commit() {
    OpenPut* put = PickPut();
    const uint8_t how = input_->Byte();
    if (put == nullptr) return;
    const uint64_t size_bytes = put->block.size() + (how == 1 ? 1 : how == 2 ? 1 << 20 : 0);
    const absl::StatusOr<v1::PutResponse> answer = put->session->Commit(size_bytes);
    if (!answer.ok()) {
      KVIST_HOLDS(!answer.status().message().empty(), "refused without a word");
      if (put->reserved && absl::IsDataLoss(answer.status())) damaged_gate.Pass();
      put->over = true;
      return;
    }
    if (answer->stored()) {
      KVIST_HOLDS(put->reserved && !put->over, "a session that was over stores a block");
      CheckSent(*put);
      KVIST_HOLDS(node_.runtime.Now() < put->deadline, "stored behind its deadline");
      committed_[put->key] = put->ns;
      stored_ += put->copy ? 0 : 1;
      KVIST_HOLDS(node_.stored == stored_, "the hook for stored blocks: ", node_.stored, " of ", stored_);
      stored_gate.Pass();
    }
    put->over = true;
  }

  // What came is the block. Where nothing came, the slab may have held the same block before: what a Get sends tells.
  static void CheckSent(const OpenPut& put) {
    for (size_t i = 0; i < put.block.size(); ++i) {
      KVIST_HOLDS(!put.came[i] || put.written[i] == put.block[i], "a damaged byte is stored, at ", i);
    }
  }

  // --- Get ---
  void BeginGet() {
    const uint64_t count = input_->Below(5);
    const uint8_t how = input_->Byte();
    OpenGet get;
    v1::GetRequest request;
    for (uint64_t i = 0; i < count; ++i) {
      get.keys.push_back(static_cast<int>(input_->Below(fuzz::kTestKeys)));
      const Key name = fuzz::TestKey(get.keys.back());
      request.mutable_keys()->append(reinterpret_cast<const char*>(name.bytes.data()), name.bytes.size());
    }
    if ((how & 1) != 0) get.ns = how >> 1 & 1;
    if (get.ns) request.set_namespace_digest(fuzz::TestNamespace(*get.ns));
    if ((how & 4) != 0) request.set_last_layer(1);
    if ((how & 8) != 0) request.set_precision(how >> 4);
    if (gets_.size() >= kMostSessions) return;
    get.deadline = node_.DeadlineIn(absl::Seconds(1 + input_->Below(30)));
    auto session = node_.handlers->OpenGet(Caller::Anyone(), request, get.deadline);
    if (!session.ok()) return CheckRefusal(session.status());
    get.session = *std::move(session);
    gets_.push_back(std::move(get));
  }

  void Next() {
    if (gets_.empty()) return;
    OpenGet& get = gets_[input_->Below(gets_.size())];
    const bool keep = input_->Flag();
    absl::StatusOr<GetSession::Message> message = get.session->Next();
    if (!message.ok()) {
      KVIST_HOLDS(!message.status().message().empty(), "refused without a word");
      get.over = true;
      return;
    }
    KVIST_HOLDS(!get.over, "a session that was over goes on");
    if (const auto* header = std::get_if<v1::GetHeader>(&*message)) return TakeHeader(*header, &get);
    if (auto* part = std::get_if<PinnedPart>(&*message)) return TakePart(std::move(*part), keep, &get);
    const auto& trailer = std::get<v1::GetTrailer>(*message);
    KVIST_HOLDS(get.items == get.keys.size() && get.left == 0, "a trailer before the end");
    KVIST_HOLDS(trailer.sent_bytes() == get.sent && trailer.hits() == get.hits, "the trailer's sums");
    KVIST_HOLDS(trailer.hits() + trailer.misses() == get.keys.size(), "the trailer's counts");
    get.over = true;
  }

  void TakeHeader(const v1::GetHeader& header, OpenGet* get) {
    KVIST_HOLDS(get->left == 0, "a header while ", get->left, " bytes are to come");
    KVIST_HOLDS(header.item() == get->items && header.item() < get->keys.size(), "item ", header.item());
    const int key = get->keys[get->items++];
    get->end = 0;
    get->left = header.sent_bytes();
    if (header.miss() != v1::MISS_REASON_UNSPECIFIED) {
      KVIST_HOLDS(header.sent_bytes() == 0, "bytes of a miss");
      return missed.Pass();
    }
    const auto committed = committed_.find(key);
    KVIST_HOLDS(committed != committed_.end(), "a hit on a block that was never stored");
    KVIST_HOLDS(!get->ns || *get->ns == committed->second, "a hit in another namespace");
    const size_t whole = fuzz::TestBlock(key, committed->second).size();
    KVIST_HOLDS(header.block_bytes() == whole && header.sent_bytes() <= whole, header.block_bytes(), " of ", whole);
    ++get->hits;
    (header.sent_bytes() == whole ? sent_gate : partly).Pass();
  }

  void TakePart(PinnedPart part, bool keep, OpenGet* get) {
    KVIST_HOLDS(part.item + 1 == get->items, "a part of item ", part.item);
    KVIST_HOLDS(part.size_bytes > 0 && part.size_bytes <= get->left, part.size_bytes, " bytes of ", get->left);
    KVIST_HOLDS(part.size_bytes <= kMaxPartBytes && part.offset >= get->end, "offset ", part.offset);
    get->end = part.offset + part.size_bytes;
    get->left -= part.size_bytes;
    get->sent += part.size_bytes;
    CheckBytes(part, get->keys[part.item]);
    if (keep) parts_.emplace_back(std::move(part), get->keys[part.item]);
  }

  // The bytes are those of a block that was stored under this key, in whichever namespace.
  void CheckBytes(const PinnedPart& part, int key) const {
    std::string bytes;
    for (const absl::Span<const uint8_t> span : part.data) bytes.append(span.begin(), span.end());
    KVIST_HOLDS(bytes.size() == part.size_bytes, bytes.size(), " bytes in a part of ", part.size_bytes);
    const bool right = fuzz::TestBlock(key, 0).compare(part.offset, bytes.size(), bytes) == 0 ||
                       fuzz::TestBlock(key, 1).compare(part.offset, bytes.size(), bytes) == 0;
    KVIST_HOLDS(right, "wrong bytes of key ", key, " at ", part.offset);
  }

  // --- The rest ---
  void Drop() {
    const uint8_t which = input_->Byte();
    const size_t at = which >> 2;
    if (which % 4 == 0 && !puts_.empty()) puts_.erase(puts_.begin() + at % puts_.size());
    if (which % 4 == 1 && !gets_.empty()) gets_.erase(gets_.begin() + at % gets_.size());
    if (which % 4 == 2 && !parts_.empty()) {
      const auto part = parts_.begin() + at % parts_.size();
      CheckBytes(part->first, part->second);
      if (gets_.empty()) outlives.Pass();
      parts_.erase(part);
    }
  }

  void Turn() {
    node_.runtime.Turn(absl::Milliseconds(100) * input_->Below(200));
    const absl::Time now = node_.runtime.Now();
    for (const OpenPut& put : puts_) put.deadline <= now ? late.Pass() : void();
    if (!input_->Flag()) return;
    node_.handlers->Sweep();
    for (OpenGet& get : gets_) {
      if (get.deadline <= now) get.over = true;
    }
    if (node_.handlers->load().streams() < gets_.size()) swept.Pass();
  }

  void Disturb() {
    const uint8_t how = input_->Byte();
    const int key = how / 8 % fuzz::kTestKeys;
    const Key name = fuzz::TestKey(key);
    if (how % 8 == 0) node_.taking_blocks = !node_.taking_blocks;
    if (how % 8 == 1) {
      node_.handlers->EndSessions();
      for (OpenGet& get : gets_) get.over = true;
      for (OpenPut& put : puts_) put.over = true;
      stopped.Pass();
    }
    v1::EraseRequest erase;
    erase.set_keys(name.bytes.data(), name.bytes.size());
    if (how % 8 == 2) KVIST_HOLDS(node_.handlers->Erase(Caller::Anyone(), erase).ok(), "erase");
    v1::ReportRequest report;
    report.set_keys(erase.keys());
    if (how % 8 == 3) {
      const auto answer = node_.handlers->Report(Caller::Anyone(), report);
      KVIST_HOLDS(!answer.ok() || answer->damaged() == 0, "a good block was dropped");
    }
  }

  void CheckRefusal(const absl::Status& status) {
    KVIST_HOLDS(!status.message().empty(), "refused without a word");
    if (!absl::IsResourceExhausted(status)) return;
    KVIST_HOLDS(RetryHint(status).value_or(absl::ZeroDuration()) > absl::ZeroDuration(), status.ToString());
    too_many.Pass();
  }

  void CheckBounds() {
    const StoreStats stats = *node_.tier->Stats();
    KVIST_HOLDS(stats.used_bytes + stats.reserved_bytes <= stats.capacity_bytes, stats.used_bytes);
    KVIST_HOLDS(node_.handlers->load().streams() <= gets_.size(), "more streams than sessions");
  }

  // Everything comes back: pins with the last part, space and load with the sessions.
  void LetGo() {
    gets_.clear();
    puts_.clear();
    for (const auto& [part, key] : parts_) CheckBytes(part, key);
    parts_.clear();
    const StoreStats stats = *node_.tier->Stats();
    KVIST_HOLDS(stats.pinned_bytes == 0, stats.pinned_bytes, " bytes are pinned by nobody");
    KVIST_HOLDS(stats.reserved_bytes == 0, stats.reserved_bytes, " bytes are reserved by nobody");
    const v1::Load load = node_.handlers->load();
    KVIST_HOLDS(load.streams() == 0 && load.queued_bytes() == 0, load.streams(), " streams, ", load.queued_bytes());
    node_.runtime.Turn(absl::Minutes(1));
    node_.taking_blocks = true;
    auto put = node_.handlers->OpenPut(Caller::Anyone(), node_.DeadlineIn(absl::Seconds(1)));
    KVIST_HOLDS(put.ok(), "no session is open, and a Put is refused: ", put.status().ToString());
  }

  fuzz::Input* const input_;
  fuzz::NodeUnderTest node_;
  std::vector<OpenPut> puts_;
  std::vector<OpenGet> gets_;
  std::vector<std::pair<PinnedPart, int>> parts_;  // with their keys
  std::map<int, int> committed_;                   // key -> namespace of the last block that was stored
  uint64_t stored_ = 0;
};

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::fuzz::Input input(data, size);
  kvist::Script(&input).Run();
  return 0;
}
