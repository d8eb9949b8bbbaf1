// What the calls of one client share. Internal to services/worker.
//
// Threads constant after construction, or its members guard themselves.
#ifndef KVIST_SERVICES_WORKER_CLIENT_CORE_H_
#define KVIST_SERVICES_WORKER_CLIENT_CORE_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/runtime/thread_pool.h"
#include "services/runtime/wait.h"
#include "services/worker/block_reader.h"
#include "services/worker/buffer_pool.h"
#include "services/worker/client.h"
#include "services/worker/counters.h"
#include "services/worker/errands.h"
#include "services/worker/latency.h"
#include "services/worker/locations.h"
#include "services/worker/node_link.h"
#include "services/worker/profile_keeper.h"
#include "services/worker/retry.h"
#include "services/worker/view_keeper.h"

namespace kvist {

// Keys in one request: a quarter of the smallest limit that nodes have, and 32 KiB.
inline constexpr size_t kMaxKeysPerCall = 1024;

// What Put asks kernels for, but for the profile. It looks at `options`.
EncodeOptions EncodeOptionsOf(const ClientOptions& options);

struct ClientCore {
  explicit ClientCore(ClientOptions client_options);
  ~ClientCore() { keeper.Stop(); }

  Runtime* runtime() const { return options.runtime; }
  absl::Time Now() const { return options.runtime->Now(); }
  absl::Time Deadline() const { return Now() + options.deadline; }
  std::string NamespaceField() const;  // the 16 bytes that headers and requests carry
  BlockIdentity Identity(const Key& key, size_t block) const;
  EncodeOptions ForEncode() const { return EncodeOptionsOf(options); }  // but for the profile
  // With it, prepared: up to seconds of work the first time.
  absl::StatusOr<EncodeOptions> PreparedForEncode() const;
  ExpectedBlock Expected(const Key& key, size_t block) const;  // of any node that says it has the block
  void Resize(size_t nodes);                                   // before a view with so many is used
  // When a node that refused a call because it is full said to come again, jittered; empty if it said nothing.
  std::optional<absl::Time> ToldTime(const absl::Status& status);
  // The same, if the retry budget, which pays for it, and the deadline allow another call then.
  std::optional<absl::Time> RetryTime(const absl::Status& status, absl::Time deadline);
  void CountMiss(v1::MissReason reason);
  void CountGet(const GetResult& result);
  // Counts it, and has the node verify its copy, which it drops if it is damaged there and not on the way.
  void ReportDamage(const std::shared_ptr<NodeLink>& node, const Key& key);
  LinkedViewRef view() const { return keeper.current(); }

  // Constant after construction.
  const ClientOptions options;
  const BlockShape shape;
  const Digest namespace_digest;
  const std::string namespace_text;  // namespace_text.h

  Counters counters;
  Retries retries;
  Budget hedges{4, 0.05};  // one late stream in twenty is asked for twice
  Latencies latencies;
  Slots encoders;                     // threads that may encode at once
  std::atomic<size_t> reserve_bytes;  // for a block that is not encoded yet: the nominal size, or the largest seen
  Locations locations;
  ViewKeeper keeper;
  ProfileKeeper profiles;

  // Destroyed in the reverse order: callers first, then the decoders that they submit to, then the buffers of both. The
  // keeper, whose thread has been stopped before, outlives them: their tasks hold links and tell it what they heard.
  BufferPool buffers;
  ThreadPool decoders;
  ThreadPool callers;  // blocked on nodes most of the time
  Errands errands;
};

// Where the blocks of a chain live: for each owner that has any of [first, last), their positions in ascending order.
struct OwnerBlocks {
  size_t owner;
  std::vector<size_t> blocks;
};
std::vector<OwnerBlocks> GroupByOwner(absl::Span<const Key> chain, BlockRange range, const View& view);

// The keys of these blocks as the wire carries them.
std::string PackKeys(absl::Span<const Key> chain, absl::Span<const size_t> blocks);

// Whether a call's status says that this node cannot serve now (a miss), or that the request itself is wrong (a fault).
bool IsFault(const absl::Status& status);
// REQUIRES: !IsFault(status).
v1::MissReason MissReasonOf(const absl::Status& status);
// What a node gave as a reason; NEVER_STORED for one that this version has no name for.
v1::MissReason Known(v1::MissReason reason);

// "n1: <what>".
absl::Status AtNode(const std::string& node, const absl::Status& status);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_CLIENT_CORE_H_
