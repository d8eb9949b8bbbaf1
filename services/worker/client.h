// What an inference worker links: finds the longest stored prefix of a prompt, fetches and decodes it into the worker's
// own pages, and stores what the cluster lacks. Placement, parallel calls, deadlines, retries and verification are in
// here.
//
// Shapes  pages of a prompt: [2, layers, heads, tokens, head_dim] with any strides (kernels/codec.h); base is token 0 of
//         the prompt, so block b lies at tokens [b * tokens_per_block, (b + 1) * tokens_per_block).
//         chain: the keys of the prompt's blocks, always from block 0 (placement depends on it).
// Units   tokens, blocks, bytes; absl::Duration.
// Threads any number of threads may call any method. Destruction joins the client's threads; no call may be running
//         then, and every PrefixMatch must be gone.
// Errors  a miss is a value with a reason. A Status is a fault: InvalidArgument (an argument, or a node refused the
//         request itself). A node that is down, late, overloaded or wrong costs misses, never a Status.
// Trace   what a call asks of nodes carries the W3C trace that is current on its caller's thread (runtime/trace.h):
//         { TraceScope scope(*ParseTraceparent(header)); client->Match(chain); }
// Bounds  each method returns by ClientOptions.deadline, whatever the nodes do; the first Put of codec q in a process takes
//         up to seconds more, in which its profile is prepared. Encoded blocks in flight take at most
//         2 * (nodes + threads) buffers of MaxBlockBytes.
#ifndef KVIST_SERVICES_WORKER_CLIENT_H_
#define KVIST_SERVICES_WORKER_CLIENT_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cachestore/key.h"
#include "kernels/codec.h"
#include "kvist/v1/cache.pb.h"
#include "services/cluster/view.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"
#include "services/worker/keys.h"
#include "services/worker/open_profile.h"
#include "services/worker/retry.h"

namespace kvist {

struct ClientOptions {
  Namespace ns;
  // The first view; later ones are learned from nodes. Ports of 0 = a node whose address is not known: it is down.
  // Left empty: Create asks the seeds for it.
  View view;
  // "host:port" of nodes, or of a name that leads to them; also asked when nodes are down.
  std::vector<std::string> seeds;
  Transport* transport = nullptr;    // outlives the client
  Runtime* runtime = RealRuntime();  // time, chance and threads; outlives the client

  Codec codec = Codec::kLadder;      // for Put
  int key_bits = 0, value_bits = 0;  // Put: as in EncodeOptions; 0 = the codec's own
  std::vector<uint8_t> tile_bits;    // Put: [layers][2][heads], in place of these; empty = all alike
  uint32_t exact_heads = 0;          // Put: as in EncodeOptions
  // That codec q puts and gets with. Namespaces name it: `ns.profile_digest` is filled from it if it is zero. Without it
  // blocks of q are NO_PROFILE misses until it has been fetched from a node, in the background.
  std::shared_ptr<const OpenProfile> profile;
  // Put: EncodeOptions.floor_db. Get: a block whose promise is less is a miss. 0 = the codec's own; any.
  float floor_db = 0;
  int min_precision = 0;  // Get: a block with fewer bits per code, in the tiles that have most, is a miss; 0 = any

  absl::Duration deadline = absl::Seconds(5);  // of every call; at most 10 minutes (a node refuses longer streams)
  absl::Duration lease = absl::Seconds(5);  // that Match asks for; at most 10 minutes; a node may grant less, or none
  int threads = 2;                          // that decode and encode; 1 to 256
  RetryOptions retry;
  int replicas = 1;  // nodes that shall keep each block that is put, its owner included; 1 to 3
};

struct BlockRange {
  size_t first = 0, last = 0;  // [first, last) of the chain
};

struct GetResult {
  size_t blocks = 0;                            // leading blocks of the range that are in the pages
  uint64_t fetched_bytes = 0, plain_bytes = 0;  // received; written into the pages (of the blocks delivered)
  absl::Duration fetch_time, decode_time;       // wall time until the last block was in; CPU time over all threads
  v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;  // of block first + blocks; UNSPECIFIED when all came
  std::string miss_node, why;                         // its owner; a sentence
};

struct PutResult {
  size_t blocks = 0, stored = 0, present = 0, failed = 0;  // of the chain; put now; there already; not stored
  uint64_t plain_bytes = 0, stored_bytes = 0;              // of the blocks put now, before and after encoding
  uint32_t raised_tiles = 0;                               // that needed a higher precision than the codec's
  float min_sqnr_db = 0;                                   // of the worst tile put now; 0 if none was
  absl::Duration encode_time, time;                        // CPU time over all threads; wall time
  std::string failure;                                     // the first block's that failed; a sentence
};

struct PutProfileResult {
  size_t nodes = 0, kept = 0, present = 0, failed = 0;  // of the view; that keep it since now; that had it; that do not
  std::string failure;                                  // the first; a sentence
};

struct EraseResult {
  size_t erased = 0, failed = 0;  // blocks that were there and are gone; blocks whose owner did not answer
  std::string failure;
};

// Where a block is, or why it is not.
struct BlockExplanation {
  v1::MissReason miss = v1::MISS_REASON_UNSPECIFIED;  // UNSPECIFIED = Get finds it
  std::string node;                                   // that has it, or whose reason this is: the owner
  v1::Tier tier = v1::TIER_UNSPECIFIED;               // at `node`, if that has it; also when readers do not look there
  uint64_t size_bytes = 0;                            // likewise
  absl::Time expires = absl::InfiniteFuture();        // likewise
  absl::Time gone = absl::InfinitePast();             // when it went, if the node remembers
  std::optional<Key> made_room_for;                   // the block that took its room, if the node remembers
  std::string detail;                                 // a sentence: the field that differs, what the owner said, ...
};

// Blocks of the same model that were stored under a namespace that differs in a few fields.
struct NearNamespaceFound {
  std::string digest;   // the 16 bytes of block headers, in hex
  uint64_t blocks = 0;  // put under it, over all nodes
  std::vector<v1::FieldDifference> fields;
};

struct ExplainResult {
  size_t leading = 0;  // blocks that Match would report
  std::vector<BlockExplanation> blocks;
  std::vector<NearNamespaceFound> near;
};

struct NodeAnswer {
  Node node;
  absl::Status reachable;
  v1::ServerInfoResponse info;  // if reachable
};

struct ClientCounters {
  uint64_t matched_blocks = 0, fetched_blocks = 0, stored_blocks = 0, retries = 0;
  uint64_t stale_views = 0;                   // answers of nodes that hold another view
  uint64_t refreshes = 0, refused_views = 0;  // newer views that were learned; and such that were wrong
  uint64_t hedges = 0;                        // late streams whose blocks were asked of other nodes too
  uint64_t damaged = 0;  // blocks that came with bytes other than those written, whether or not another copy was found
  uint64_t failovers = 0;  // segments and blocks that were asked of another node than the one that should have them
  uint64_t adoptions = 0;  // blocks that owners were told to fetch from where they were found
  uint64_t openings = 0;   // nodes that were given up for a while (health.h)
  uint64_t fetched_profiles = 0, refused_profiles = 0;  // from nodes; that came with other bytes, or were none
  uint64_t fetched_bytes = 0, stored_bytes = 0;         // encoded, received and sent
  absl::Duration encode_time, decode_time;              // CPU time over all threads
  std::vector<uint64_t> misses;                         // by v1::MissReason: how often it ended a Match or a Get
};

struct ClientCore;
class NodeLink;

// The leading blocks of a prompt that the cluster holds, under leases that end with this object (or with their
// deadline). An owner leases its own leading hits by one lease: where that goes on behind the common run, what is behind
// is pinned until then too. Leases of what is behind only are ended at once.
class PrefixMatch {
 public:
  ~PrefixMatch();  // releases without waiting
  PrefixMatch(PrefixMatch&&) = default;
  PrefixMatch& operator=(PrefixMatch&&) = delete;

  size_t blocks() const { return blocks_; }
  size_t tokens() const { return tokens_; }
  v1::MissReason miss() const { return miss_; }  // of block blocks(); UNSPECIFIED if all were found
  const std::string& miss_node() const { return miss_node_; }
  const std::string& why() const { return why_; }  // a sentence, if the reason is not the node's own
  bool leased() const { return !leases_.empty(); }
  absl::Time lease_expiry() const { return lease_expiry_; }  // of the first lease to end; InfinitePast if there is none

  // Ends the leases now. Errors: that of the first node that could not be told; its lease ends by itself.
  absl::Status Release();

 private:
  friend class MatchJob;
  struct Lease {
    std::shared_ptr<NodeLink> node;
    uint64_t id;
    size_t first_block;  // that it pins
  };
  explicit PrefixMatch(ClientCore* core) : core_(core) {}

  ClientCore* core_;
  size_t blocks_ = 0, tokens_ = 0;
  v1::MissReason miss_ = v1::MISS_REASON_UNSPECIFIED;
  std::string miss_node_, why_;
  std::vector<Lease> leases_;
  absl::Time lease_expiry_ = absl::InfinitePast();
};

class Client {
 public:
  // Errors: InvalidArgument  names every option that is wrong at once.
  //         Unavailable      no view was given and no seed gave one by options.deadline; says what each seed said.
  // Touches no network if a view is given.
  static absl::StatusOr<std::unique_ptr<Client>> Create(ClientOptions options);
  ~Client();

  const Namespace& ns() const;
  View view() const;  // the newest that was learned

  // The keys of the full blocks of a prompt (keys.h).
  std::vector<Key> Keys(absl::Span<const uint32_t> tokens) const;

  // Counts the leading blocks that the cluster holds, and leases them. Each owner is asked once, in parallel.
  absl::StatusOr<PrefixMatch> Match(absl::Span<const Key> chain);

  // Fetches blocks [range.first, range.last) and decodes each as soon as it is complete. The first block that is
  // missing, late, or in any doubt ends the run; pages behind the run may have been written.
  // Errors: InvalidArgument  a range that is not within the chain.
  absl::StatusOr<GetResult> Get(absl::Span<const Key> chain, BlockRange range, const Pages& pages);

  // Stores the blocks of the chain that the cluster lacks. Each block is reserved at the codec's nominal size (or the
  // largest that this client has seen since), then encoded; one whose tiles needed more is reserved again at its exact
  // size. A bound for any input would be four times a ladder block, and evict that much for nothing. What the node
  // takes for existing counts as present. Refusals are tried again within the deadline and the retry budget.
  // Of codec q each node is given the profile before its first block, once in a life of the node.
  absl::StatusOr<PutResult> Put(absl::Span<const Key> chain, const ConstPages& pages);

  // Fetches a profile from the nodes, one after the other; if it is the namespace's, Get has it from now on.
  // Errors: NotFound  no node that answered has it; what others said is named.
  absl::StatusOr<std::shared_ptr<const OpenProfile>> FetchProfile(const std::array<uint8_t, 16>& digest);

  // Has every node of the view keep the profile, whatever the namespace's is.
  PutProfileResult PutProfile(const OpenProfile& profile);

  absl::StatusOr<EraseResult> Erase(absl::Span<const Key> chain);

  // Says block by block where it is, or what became of it; and which namespaces almost match this client's. Asks every
  // node; takes no lease and touches nothing. A node that cannot be asked is a reason, not an error.
  absl::StatusOr<ExplainResult> Explain(absl::Span<const Key> chain);

  // One entry per node of the view, in its order.
  std::vector<NodeAnswer> Stats();

  ClientCounters counters() const;

 private:
  friend class DeviceReader;  // shares the core
  explicit Client(std::unique_ptr<ClientCore> core);
  std::unique_ptr<ClientCore> core_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_CLIENT_H_
