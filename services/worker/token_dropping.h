// Prompts of which only some tokens' KV is kept: which tokens two known policies keep, and how these are stored and found
// again. Never under a key of the shared prefix: a later question may need what was dropped, so that what is kept has a
// namespace of its own, which names the policy and its numbers, and keys that name the whole prompt and the kept positions.
//
//   StreamingLlm  (Xiao et al., 2023) the first `sinks` tokens, which draw attention whatever they say, and the last `window`
//   HeavyHitters  (H2O, Zhang et al., 2023) the last `recent` tokens, and of those before the `heavy` ones with the most
//                 attention so far, from sums that the worker passes in
//
// Shapes  pages of Put: of the whole prompt, as Client::Put's. Pages of Get: [2, layers, heads, kept tokens, head_dim], the
//         kept tokens side by side in ascending position. K is as it was put: after RoPE at its position in the prompt.
// Units   tokens, blocks; positions count from the prompt's first token.
// Kept    sinks + window, or recent + heavy tokens, whole blocks of them; of a prompt that has no more than that nothing
//         would be dropped, and it belongs under its own prefix: refused. One choice holds for all layers and heads, since a
//         block holds all of a token; ranks of one model that choose alike pass the same sums.
// Where   StreamingLlm's positions are computed again by the reader. HeavyHitters' are stored before their KV: one block of
//         bytes (fp8p) a prompt, the positions as little-endian u32 and zeros behind them, so that they come whole or not at
//         all. Who puts a prompt whose positions are there already puts those tokens, whatever the sums would choose now.
// Threads any number of threads may call any method of KeptTokens.
// Errors  InvalidArgument names what is wrong with a policy, a prompt or its sums. What nodes do costs misses, as in client.h.
#ifndef KVIST_SERVICES_WORKER_TOKEN_DROPPING_H_
#define KVIST_SERVICES_WORKER_TOKEN_DROPPING_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cachestore/key.h"
#include "services/worker/client.h"
#include "services/worker/keys.h"

namespace kvist {

struct StreamingLlm {
  uint32_t sinks = 4, window = 1020;
};
struct HeavyHitters {
  uint32_t recent = 512, heavy = 512;
};
using DropPolicy = std::variant<StreamingLlm, HeavyHitters>;

// "streaming sinks=4 window=1020", "h2o recent=512 heavy=512".
std::string PolicyText(const DropPolicy& policy);
uint64_t KeptBy(const DropPolicy& policy);  // tokens
absl::Status ValidatePolicy(const DropPolicy& policy, uint32_t tokens_per_block);

// The kept positions, ascending. REQUIRES: tokens > KeptBy(policy).
std::vector<uint32_t> StreamingPositions(const StreamingLlm& policy, uint32_t tokens);
// `attention[t]`: what token t has been given so far, summed as the worker likes over queries, heads and layers. Of equal
// sums the earlier token is kept. REQUIRES: attention.size() > KeptBy(policy), and no NaN.
std::vector<uint32_t> HeavyHitterPositions(const HeavyHitters& policy, absl::Span<const float> attention);

// That of what is kept: the model's name goes on with " kept: " and the policy's text.
Namespace KeptNamespace(const Namespace& ns, const DropPolicy& policy);

// One key for each block of kept tokens; the chain begins with the prompt. REQUIRES: `kept_namespace` is of KeptNamespace,
// positions fill whole blocks.
std::vector<Key> KeptKeys(const Namespace& kept_namespace, absl::Span<const uint32_t> prompt,
                          absl::Span<const uint32_t> positions);

struct KeptGetResult {
  std::vector<uint32_t> positions;  // of the tokens that are in the pages: tokens_per_block for each of got.blocks
  GetResult got;                    // a miss of the positions is a miss of the first block
};

class KeptTokens {
 public:
  // `options.ns` is the model's own namespace. Codec and floor hold for the KV.
  // Errors: as Client::Create; InvalidArgument for a policy that does not keep whole blocks, and for codec q.
  static absl::StatusOr<std::unique_ptr<KeptTokens>> Create(const ClientOptions& options, const DropPolicy& policy);

  // Copies the kept rows out of the pages, and stores the blocks that the cluster lacks. `attention` is HeavyHitters' alone.
  absl::StatusOr<PutResult> Put(absl::Span<const uint32_t> prompt, absl::Span<const float> attention,
                                const ConstPages& pages);

  // REQUIRES: `pages` have room for KeptBy(policy) tokens.
  absl::StatusOr<KeptGetResult> Get(absl::Span<const uint32_t> prompt, const Pages& pages);

 private:
  // Positions, or the miss that they ended with.
  struct Positions {
    std::vector<uint32_t> kept;
    GetResult miss;
  };
  KeptTokens(const DropPolicy& policy, std::unique_ptr<Client> kv, std::unique_ptr<Client> positions)
      : policy_(policy), kv_(std::move(kv)), positions_(std::move(positions)) {}

  absl::Status CheckPrompt(absl::Span<const uint32_t> prompt) const;
  Key PositionsKey(absl::Span<const uint32_t> prompt) const;
  absl::StatusOr<Positions> Read(absl::Span<const uint32_t> prompt);
  // Those that are there, or else those of the sums, which are there then.
  absl::StatusOr<Positions> Settle(absl::Span<const uint32_t> prompt, absl::Span<const float> attention);

  const DropPolicy policy_;
  const std::unique_ptr<Client> kv_, positions_;  // positions_ is null for StreamingLlm
};

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_TOKEN_DROPPING_H_
