#include "tests/fuzz/client_corpus.h"

#include <cstdint>

namespace kvist {
namespace {

using Bytes = std::string;

Bytes Le(uint64_t number, int bytes) {
  Bytes text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(number >> (8 * i)));
  return text;
}
Bytes One(uint64_t number) { return Le(number, 1); }
Bytes Times(int count, const Bytes& bytes) {
  Bytes all;
  for (int i = 0; i < count; ++i) all += bytes;
  return all;
}

// Positions in client_fuzz.cc's lists.
enum Deadline : uint8_t { k1ms, k60ms, k400ms, k2s, k5s, kAlso5s, k20s };
enum Form : uint8_t { kRaw16, kI8, kLadder, kLadderAt3, kLadderAt2 };
constexpr uint32_t kAll = 0xfff;  // true blocks

// What an input of client_fuzz begins with.
struct Setting {
  int seed = 1, preempt = 0, nodes = 1, down = 0;
  Form put = kRaw16, held_form = kRaw16;
  int replicas = 1, promise = 0;
  Deadline deadline = k5s;
  uint32_t held = 0;

  Bytes Written() const {
    int codec = 0;  // the number that stands for all three
    while (codec % 3 != put || codec / 4 % 5 != held_form || 1 + codec / 32 % 3 != replicas) ++codec;
    const int count = nodes - 1 + (down == 0 ? 0 : 0x80 + 8 * down);
    constexpr int kLeaseOf5s = 2 << 3, kTwoThreads = 1 << 5;
    return Le(seed, 2) + One(preempt) + One(count) + One(codec) + One(promise) +
           One(deadline + kLeaseOf5s + kTwoThreads) + Le(held, 3) + One(4);
  }
};

Bytes Act(int kind, int a, int b, int c) { return One(kind) + One(a) + One(b) + One(c); }
Bytes Get(int first, int last) { return Act(0, first, last, 12); }
Bytes Put(int blocks) { return Act(2, blocks, 0, 0); }
Bytes Match(int blocks, int then) { return Act(3, blocks, then, 0); }
Bytes Erase(int blocks) { return Act(4, blocks, 0, 0); }
Bytes Explain(int blocks) { return Act(5, blocks, 0, 0); }
const Bytes kStats = Act(6, 0, 0, 0);
Bytes Acts(std::initializer_list<Bytes> acts) {
  Bytes all = One(acts.size());
  for (const Bytes& act : acts) all += act;
  return all;
}

// Answers of hostile_cluster.cc.
const Bytes kWell = One(0), kDown = One(161), kSilent = One(162), kTwisted = One(164);
Bytes Late(int tens_of_ms) { return One(163) + One(tens_of_ms); }
Bytes Refuse(int code) { return One(160) + One(code - 1); }
Bytes RefuseWithHint(int code, int ms) { return One(160) + One(code - 1 + 32) + One(ms); }
constexpr int kInvalidArgument = 3, kResourceExhausted = 8, kFailedPrecondition = 9, kAborted = 10;
// Of one item of a Get: 160 and how it is changed.
Bytes Item(int change) { return One(160 + change); }

Bytes TwistedView(int state) {
  const Bytes chain = One(0), node = One(77) + One(state) + One(250) + One(0), none_goes = One(0);
  return kTwisted + chain + One(1) + One(2) + node + none_goes;
}

}  // namespace

void WriteClientScripts(const WriteInput& write) {
  const auto input = [&](const std::string& name, const Setting& setting, const Bytes& acts, const Bytes& answers) {
    write("client_fuzz", name, setting.Written() + acts + answers);
  };
  const Bytes everything = Acts({Put(12), Get(0, 12), Match(12, 1), Explain(12), kStats, Erase(12), Match(14, 2)});
  for (const Form form : {kRaw16, kI8, kLadder}) {
    input("all-well-" + std::to_string(form), {.seed = 5 + form, .nodes = 3, .put = form}, everything, "");
    input("mixed-threads-" + std::to_string(form), {.preempt = 3, .nodes = 3, .put = form, .replicas = 2}, everything,
          "");
  }
  const Bytes get = Acts({Get(0, 12)});
  input("part-of-the-range", {.nodes = 2, .held = 7}, get, "");
  for (const Form form : {kLadder, kLadderAt3, kLadderAt2}) {
    input("held-as-" + std::to_string(form), {.held_form = form, .held = kAll}, get, "");
    input("promised-" + std::to_string(form), {.held_form = form, .promise = 2 + 16 * 3, .held = kAll}, get, "");
  }
  input("floor", {.put = kLadder, .promise = 1 + 8 * 20}, Acts({Put(4), Get(0, 4)}), "");
  input("damaged", {.held = kAll}, get, kWell + Item(6) + One(1) + Le(300, 2) + One(1) + Le(301, 2) + One(1));
  input("cut-off", {.held = kAll}, get, kWell + kWell + Item(6) + One(0) + Le(900, 2));
  for (int kind = 0; kind < 6; ++kind) {
    input("foreign-" + std::to_string(kind), {.held = kAll}, get, kWell + Item(4) + One(kind));
  }
  input("another-form", {.held = kAll}, get, kWell + Item(5) + One(4) + Item(5) + One(1));
  input("parts-in-disorder", {.held = kAll}, get, kWell + Item(3) + One(0) + One(1) + One(80));
  input("part-too-large", {.held = kAll}, get, kWell + Item(3) + One(128) + One(0));
  input("parts-left-out", {.held = kAll}, get, kWell + Item(3) + One(0) + One(16));
  input("size-that-lies", {.held = kAll}, get, kWell + Item(1) + One(1) + Le(~uint64_t{0}, 8));
  input("item-that-lies", {.held = kAll}, get, kWell + Item(7) + One(1) + One(9));
  input("nobody-listens", {.nodes = 2}, everything, Times(300, kDown));
  input("silent", {.nodes = 2, .deadline = k60ms}, everything, Times(300, kSilent));
  input("no-time", {.nodes = 2, .deadline = k1ms}, everything, Times(100, Late(1)));
  input("one-is-down", {.nodes = 2, .down = 1, .replicas = 2, .held = kAll}, Acts({Match(12, 0), Get(0, 12)}), "");
  input("late-stream", {.nodes = 2, .replicas = 2, .held = kAll}, get, Late(255));
  input("come-again", {.held = kAll}, Acts({Match(12, 1), Get(0, 12)}),
        RefuseWithHint(kResourceExhausted, 5) + kWell + kWell + RefuseWithHint(kResourceExhausted, 7));
  input("leaves", {.nodes = 3}, Acts({Put(12)}), kWell + Times(40, Refuse(kFailedPrecondition)));
  input("fault", {.held = kAll}, Acts({Match(12, 1), Get(0, 12), Erase(3), Explain(3)}),
        Times(4, Refuse(kInvalidArgument)));
  input("newer-view", {.nodes = 2, .held = kAll}, Acts({Match(1, 0), Match(12, 0), Get(0, 12)}), TwistedView(1));
  input("wrong-view", {.nodes = 2, .held = kAll}, Acts({Match(1, 0), Match(12, 0)}), TwistedView(0));
  input("adoption", {.nodes = 2, .replicas = 2, .held = kAll}, Acts({Match(1, 0), Match(12, 0), Get(0, 12)}),
        kTwisted + One(1) + One(0));
  input("hot", {.nodes = 3, .held = kAll}, Acts({Match(1, 0), Get(0, 1), Get(0, 1)}),
        kTwisted + One(0) + One(16) + One(0) + One(3) + One(0) + One(1) + One(2));
  input("seeds", {.nodes = 3, .promise = 4, .held = kAll - 1}, everything, "");
  input("seeds-down", {.promise = 4, .deadline = k400ms}, everything, Times(60, kDown));
  input("beside", {.preempt = 2, .nodes = 3, .replicas = 2, .held = kAll},
        Acts({Act(0x80, 0, 12, 12), Act(0x82, 12, 0, 0), Act(0x83, 12, 2, 0), Act(0x84, 3, 0, 0), Get(0, 12)}), "");
  input("two-requests", {.nodes = 2, .held = kAll}, Acts({Act(3, 0, 2, 255), Act(5, 0, 0, 255)}), "");
  input("raw-answers", {.nodes = 2, .held = kAll}, Acts({kStats, Erase(2), Explain(2)}),
        Times(12, kTwisted + One(9) + Bytes("\x1a\x02hi", 4)));
  // What once failed (regressions/README.md).
  input(
      "reason-without-a-name", {}, Acts({Match(1, 0), Get(0, 1), Explain(1)}),
      kTwisted + One(8) + One(77) + One(0) + kWell + Item(0) + One(39) + One(0) + kTwisted + One(1) + One(0) + One(19));
  input("lease-too-long", {.held = kAll}, Acts({Match(1, 2)}), kTwisted + One(6) + Le(7, 2) + Le(0xffffffff, 4));
  input("aborted-for-ever", {.deadline = k20s}, Acts({Put(1)}), kWell + Times(400, RefuseWithHint(kAborted, 0)));
}

// Acts of abi_fuzz.cc, with what each takes.
void WriteAbiScripts(const WriteInput& write) {
  const auto act = [](int which, int nulls = 0) { return One(which) + One(nulls); };
  const auto null = [](int argument) { return 0xc0 | 1 << argument; };
  const auto prompt = [](int first, int tokens) { return One(first) + One(tokens); };
  const Bytes as_needed = One(0), one_block = prompt(0, 16), four = prompt(1, 70), none = prompt(0, 0);
  const auto range = [](int first, int last) { return One(first + 4 * last); };
  const Bytes put = act(2) + four + as_needed, match = act(4) + four, release = act(8) + One(0);
  const Bytes get = act(5) + four + as_needed + range(0, 4), erase = act(7) + four;
  const auto told = [&](int which) { return act(9) + four + One(which) + One(1); };
  const Bytes texts = told(0) + told(1) + told(2);
  write("abi_fuzz", "put-and-get", put + match + get + act(6) + four + One(1) + range(1, 3) + release + erase + match);
  write("abi_fuzz", "texts", put + texts + act(9) + four + One(0) + One(0) + Le(10, 2));
  write("abi_fuzz", "keys", act(1) + four + One(4) + act(1) + four + One(3) + act(1) + none + One(0) + act(11));
  write("abi_fuzz", "outside",
        get + act(5) + four + as_needed + range(3, 1) + act(5) + four + as_needed + range(0, 7) + act(5) + four +
            as_needed + One(255) + Le(0, 4) + Le(0xffffffff, 4));
  write("abi_fuzz", "too-small",
        act(2) + four + One(192 + 3) + act(5) + four + One(192 + 3) + range(0, 4) + act(5) + four + One(192) +
            range(0, 0));
  write("abi_fuzz", "nothing", act(2) + none + as_needed + One(1) + One(1) + act(4) + none + act(7) + none);
  Bytes nulls;
  for (int argument = 0; argument < 4; ++argument) {
    nulls += act(1, null(argument)) + four + One(4) + act(2, null(argument)) + four + as_needed + One(0) +
             act(4, null(argument)) + four + act(7, null(argument)) + four;
  }
  write("abi_fuzz", "nulls", nulls);
  nulls.clear();
  for (int argument = 0; argument < 4; ++argument) {
    nulls += act(5, null(argument)) + four + as_needed + range(0, 4) + One(0) + act(8, null(argument)) + One(255) +
             Le(9, 8) + act(9, null(argument)) + four + One(0) + One(1);
  }
  write("abi_fuzz", "more-nulls", nulls);
  for (int argument = 0; argument < 4; ++argument) {
    write("abi_fuzz", "create-null-" + std::to_string(argument), act(0, null(argument)));
  }
  write("abi_fuzz", "create", act(0));
  write("abi_fuzz", "create-otherwise", act(0) + Bytes("\1\1\1\1\2\1\1\1\1\1\1\1\1\1\2\1\1\1\1\1", 20));
  write("abi_fuzz", "create-long-text", act(0) + One(255) + act(0) + One(203) + "abc");
  write("abi_fuzz", "create-from-seeds", act(0) + Bytes(13, '\0') + One(2) + One(2));
  write("abi_fuzz", "create-from-no-seed", act(0) + Bytes(13, '\0') + One(4) + One(3));
  write("abi_fuzz", "damaged",
        act(2) + one_block + as_needed + act(10) + One(1) + One(0) + Le(500, 2) + act(10) + One(9) + One(0) +
            Le(500, 2) + act(5) + one_block + as_needed + range(0, 1));
  // What once failed (regressions/README.md).
  write("abi_fuzz", "status-of-any-bytes", act(10) + One(0) + "\xff\xfe\x80 down" + texts + put + match + get + erase);
}

}  // namespace kvist
