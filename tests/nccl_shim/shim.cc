// A libnccl for tests: the entry points that services/transport/nccl uses, over sockets and emulated device memory, on
// the emulated streams. It keeps NCCL's manners where they matter: calls do not wait for the peer, results come by
// ncclCommGetAsyncError, work runs in the order of the stream, and only abort ends what waits for a peer.
// Rank 0 talks to every other rank; others talk to rank 0 alone, so broadcasts start at rank 0.
#include <dlfcn.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "services/transport/nccl/nccl_abi.h"
#include "tests/nccl_shim/link.h"
#include "tests/nccl_shim/shim_control.h"

namespace kvist::testing {
namespace {

using nccl::UniqueId;

// What the test set.
class Faults {
 public:
  void Set(const std::string& name, int64_t value) {
    const std::lock_guard lock(mutex_);
    values_[name] = value;
    changed_.notify_all();
  }
  int64_t Get(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return values_[name];
  }
  // Until the fault is over, or `stop`.
  void HangWhile(const std::string& name, const std::atomic<bool>& stop) {
    std::unique_lock lock(mutex_);
    while (values_[name] != 0 && !stop) changed_.wait_for(lock, std::chrono::milliseconds(5));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int64_t> values_;
};
Faults& TheFaults() {
  static Faults* const faults = new Faults;
  return *faults;
}
const std::atomic<bool> kNever = false;

std::atomic<int64_t> live_communicators{0};

// One communicator. Shared with its init thread and with work on streams, both of which may outlive abort.
struct State {
  State() { ++live_communicators; }
  ~State() { --live_communicators; }
  int rank = 0, ranks = 0;
  std::atomic<bool> aborted{false};
  std::atomic<int> result{nccl::kInProgress};
  std::vector<Link> links;  // by rank; filled before `result` becomes a success
  std::mutex wire;          // one group at a time
};

struct Listeners {
  std::mutex mutex;
  std::map<std::string, Link> by_name;
};
Listeners& TheListeners() {
  static Listeners* const listeners = new Listeners;
  return *listeners;
}
Link TakeListener(const std::string& name) {
  const std::lock_guard lock(TheListeners().mutex);
  auto node = TheListeners().by_name.extract(name);
  return node.empty() ? Link() : std::move(node.mapped());
}

int Version() {
  const int64_t version = TheFaults().Get("version");
  return version == 0 ? kShimVersion : int(version);
}

struct Hello {
  int rank;
  int version;
};

int ConnectRanks(State* state, const std::string& name) {
  const Hello mine = {state->rank, Version()};
  Hello theirs = {};
  if (state->rank != 0) {
    Link link = Link::Connect(name, state->aborted);
    if (!link.open() || !link.Write(&mine, sizeof(mine), state->aborted)) return nccl::kSystemError;
    if (!link.Read(&theirs, sizeof(theirs), state->aborted)) return nccl::kRemoteError;
    state->links[0] = std::move(link);
    return theirs.version == mine.version ? nccl::kSuccess : nccl::kInvalidUsage;
  }
  const Link listener = TakeListener(name);
  if (!listener.open()) return nccl::kInvalidArgument;
  for (int missing = state->ranks - 1; missing > 0; --missing) {
    Link link = listener.Accept(state->aborted);
    if (!link.open() || !link.Read(&theirs, sizeof(theirs), state->aborted)) return nccl::kRemoteError;
    if (!link.Write(&mine, sizeof(mine), state->aborted)) return nccl::kRemoteError;
    if (theirs.version != mine.version) return nccl::kInvalidUsage;
    if (theirs.rank <= 0 || theirs.rank >= state->ranks) return nccl::kInvalidArgument;
    state->links[theirs.rank] = std::move(link);
  }
  return nccl::kSuccess;
}

void Initialize(std::shared_ptr<State> state, std::string name) {
  TheFaults().HangWhile("hang_init", state->aborted);
  const bool duplicate = TheFaults().Get("duplicate_gpu") != 0;
  const int result = duplicate ? int(nccl::kInvalidUsage) : ConnectRanks(state.get(), name);
  state->result = state->aborted ? int(nccl::kSystemError) : result;
}

// One send or receive of a group, to or from one rank.
struct Act {
  bool send;
  int peer;
  void* device_pointer;
  size_t size;
};
struct Group {
  std::shared_ptr<State> state;
  std::vector<Act> acts;
};
struct OpenGroup {
  int depth = 0;
  std::map<void*, Group> by_stream;
};
// By thread, in a map: sanitizers do not follow thread_local storage of a library that was loaded late.
class OpenGroups {
 public:
  void Begin() {
    const std::lock_guard lock(mutex_);
    ++groups_[std::this_thread::get_id()].depth;
  }
  // Null if this thread has no group open. Only this thread touches it.
  OpenGroup* Find() {
    const std::lock_guard lock(mutex_);
    const auto found = groups_.find(std::this_thread::get_id());
    return found == groups_.end() ? nullptr : &found->second;
  }
  std::map<void*, Group> Take() {
    const std::lock_guard lock(mutex_);
    return std::move(groups_.extract(std::this_thread::get_id()).mapped().by_stream);
  }

 private:
  std::mutex mutex_;
  std::map<std::thread::id, OpenGroup> groups_;
};
OpenGroups& TheOpenGroups() {
  static OpenGroups* const groups = new OpenGroups;
  return *groups;
}

// The program's own: the emulated device.
template <typename Function>
Function* FromProgram(const char* name) {
  void* const symbol = dlsym(RTLD_DEFAULT, name);
  if (symbol == nullptr) {
    std::fprintf(stderr, "NCCL shim: the program has no %s\n", name);
    std::abort();
  }
  return reinterpret_cast<Function*>(symbol);
}

// In pieces, so that an abort is seen soon, and so that a slow transfer is slow all along.
bool Move(const State& state, const Act& act) {
  uint8_t* const bytes = FromProgram<uint8_t*(void*)>("kvist_emulated_alias")(act.device_pointer);
  if (bytes == nullptr) return false;
  constexpr size_t kPiece = 64 << 10;
  const Link& link = state.links[act.peer];
  for (size_t done = 0; done < act.size;) {
    const int64_t per_ms = TheFaults().Get("bytes_per_ms");
    const size_t piece = std::min({kPiece, act.size - done, per_ms > 0 ? size_t(per_ms) : kPiece});
    if (per_ms > 0) poll(nullptr, 0, 1);
    if (state.aborted) return false;
    if (!(act.send ? link.Write(bytes + done, piece, state.aborted) : link.Read(bytes + done, piece, state.aborted))) {
      return false;
    }
    done += piece;
  }
  return true;
}

// What is on a stream. A device that has failed runs nothing more: what it dropped stays here.
class Launched {
 public:
  Group* Add(Group group) {
    const std::lock_guard lock(mutex_);
    groups_.push_back(std::make_unique<Group>(std::move(group)));
    return groups_.back().get();
  }
  std::unique_ptr<Group> Take(void* which) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(groups_.begin(), groups_.end(), [which](const auto& group) { return group.get() == which; });
    std::unique_ptr<Group> group = std::move(*found);
    groups_.erase(found);
    return group;
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Group>> groups_;
};
Launched& TheLaunched() {
  static Launched* const launched = new Launched;
  return *launched;
}

// A kernel whose peer has gone does not end by itself: it waits to be aborted.
void RunGroup(void* argument) {
  const std::unique_ptr<Group> group = TheLaunched().Take(argument);
  State& state = *group->state;
  const std::lock_guard lock(state.wire);
  for (const Act& act : group->acts) {
    if (Move(state, act)) continue;
    int up = nccl::kSuccess;
    state.result.compare_exchange_strong(up, nccl::kRemoteError);
    while (!state.aborted) poll(nullptr, 0, 1);
    return;
  }
}

}  // namespace
}  // namespace kvist::testing

using namespace kvist::testing;  // NOLINT: the entry points are C
using kvist::nccl::Config;
using kvist::nccl::UniqueId;
namespace nccl = kvist::nccl;

struct ncclComm {
  std::shared_ptr<State> state = std::make_shared<State>();
};

namespace {

int Add(void* pointer, size_t count, int type, bool send, int peer, ncclComm* comm, void* stream) {
  State& state = *comm->state;
  OpenGroup* const open = TheOpenGroups().Find();
  if (open == nullptr || type != nccl::kUint8 || peer < 0 || peer >= state.ranks) return nccl::kInvalidArgument;
  if (peer == state.rank || (peer != 0 && state.rank != 0)) return nccl::kInvalidUsage;
  Group& group = open->by_stream[stream];
  group.state = comm->state;
  group.acts.push_back({send, peer, pointer, count});
  return nccl::kSuccess;
}

}  // namespace

namespace {

void Bury(ncclComm* comm) {
  static std::mutex* const mutex = new std::mutex;
  static std::vector<ncclComm*>* const aborted = new std::vector<ncclComm*>;
  const std::lock_guard lock(*mutex);
  aborted->push_back(comm);
}

}  // namespace

#define SHIM_EXPORT extern "C" __attribute__((visibility("default")))

SHIM_EXPORT void kvist_shim_set(const char* fault, int64_t value) { TheFaults().Set(fault, value); }
SHIM_EXPORT int64_t kvist_shim_communicators() { return live_communicators; }

SHIM_EXPORT int ncclGetVersion(int* version) {
  *version = Version();
  return nccl::kSuccess;
}

SHIM_EXPORT int ncclGetUniqueId(UniqueId* id) {
  TheFaults().HangWhile("hang_id", kNever);
  static std::atomic<uint64_t> counter{0};
  const std::string name = "kvist-nccl-shim-" + std::to_string(getpid()) + "-" +
                           std::to_string(reinterpret_cast<uintptr_t>(&counter)) + "-" + std::to_string(++counter);
  Link listener = Link::Listen(name);
  if (!listener.open()) return nccl::kSystemError;
  const std::lock_guard lock(TheListeners().mutex);
  TheListeners().by_name.emplace(name, std::move(listener));
  *id = {};
  std::memcpy(id->bytes, name.data(), name.size());
  return nccl::kSuccess;
}

SHIM_EXPORT int ncclCommInitRankConfig(ncclComm** comm, int ranks, UniqueId id, int rank, Config* config) {
  if (config->magic != 0xcafebeef || config->size < sizeof(Config) || config->blocking != 0) {
    return nccl::kInvalidArgument;
  }
  if (TheFaults().Get("hang_init") == 2) TheFaults().HangWhile("hang_init", kNever);
  *comm = new ncclComm;
  State& state = *(*comm)->state;
  state.rank = rank;
  state.ranks = ranks;
  state.links.resize(size_t(ranks));
  std::thread(Initialize, (*comm)->state, std::string(id.bytes)).detach();
  return nccl::kInProgress;
}

SHIM_EXPORT int ncclCommGetAsyncError(ncclComm* comm, int* result) {
  *result = comm->state->result;
  const int fault = int(TheFaults().Get("async_error"));
  if (*result == nccl::kSuccess && fault != 0) *result = fault;
  return nccl::kSuccess;
}

SHIM_EXPORT int ncclSend(const void* from, size_t count, int type, int peer, ncclComm* comm, void* stream) {
  return Add(const_cast<void*>(from), count, type, true, peer, comm, stream);
}
SHIM_EXPORT int ncclRecv(void* to, size_t count, int type, int peer, ncclComm* comm, void* stream) {
  return Add(to, count, type, false, peer, comm, stream);
}
SHIM_EXPORT int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, ncclComm* comm,
                              void* stream) {
  State& state = *comm->state;
  if (root != 0) return nccl::kInvalidUsage;
  if (state.rank != 0) return Add(to, count, type, false, 0, comm, stream);
  for (int rank = 1; rank < state.ranks; ++rank) {
    if (const int result = Add(const_cast<void*>(from), count, type, true, rank, comm, stream)) return result;
  }
  return nccl::kSuccess;
}

SHIM_EXPORT int ncclGroupStart() {
  TheOpenGroups().Begin();
  return nccl::kSuccess;
}

SHIM_EXPORT int ncclGroupEnd() {
  OpenGroup* const open = TheOpenGroups().Find();
  if (open == nullptr) return nccl::kInvalidUsage;
  if (--open->depth > 0) return nccl::kSuccess;
  std::map<void*, Group> groups = TheOpenGroups().Take();
  for (auto& [stream, group] : groups) {
    const bool for_good = TheFaults().Get("hang_group_end") == 2;
    TheFaults().HangWhile("hang_group_end", for_good ? kNever : group.state->aborted);
    if (group.state->aborted) return nccl::kSystemError;
    FromProgram<void(void*, void (*)(void*), void*)>("kvist_emulated_enqueue")(stream, RunGroup,
                                                                               TheLaunched().Add(std::move(group)));
  }
  return nccl::kSuccess;
}

#ifndef KVIST_SHIM_WITHOUT_FINALIZE
SHIM_EXPORT int ncclCommFinalize(ncclComm*) { return nccl::kSuccess; }
#endif

SHIM_EXPORT int ncclCommDestroy(ncclComm* comm) {
  comm->state->aborted = true;
  delete comm;
  return nccl::kSuccess;
}

// Another thread may be inside a call on it: the handle itself stays.
SHIM_EXPORT int ncclCommAbort(ncclComm* comm) {
  Bury(comm);
  comm->state->aborted = true;
  TheFaults().HangWhile("hang_abort", kNever);
  comm->state.reset();
  return nccl::kSuccess;
}

SHIM_EXPORT const char* ncclGetErrorString(int result) {
  switch (result) {
    case nccl::kSuccess:
      return "no error";
    case nccl::kSystemError:
      return "unhandled system error";
    case nccl::kInvalidUsage:
      return "invalid usage";
    case nccl::kRemoteError:
      return "remote process exited or there was a network error";
    case nccl::kInProgress:
      return "NCCL operation in progress";
    default:
      return "another error";
  }
}
SHIM_EXPORT const char* ncclGetLastError(ncclComm*) {
  return TheFaults().Get("duplicate_gpu") != 0 ? "Duplicate GPU detected" : "the shim keeps no last error";
}
