// A worker in a few lines: stores the KV of a prompt, finds it again, reads it back. Usage: worker CLUSTER_FILE
#include <cstdio>
#include <vector>

#include "absl/time/clock.h"
#include "services/cluster/static_file.h"
#include "services/worker/client.h"

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: worker CLUSTER_FILE\n"), 2;
  const auto fail = [](const absl::Status& status) {
    return std::fprintf(stderr, "%s\n", status.ToString().c_str()), 1;
  };

  const std::unique_ptr<kvist::Transport> transport = kvist::NewGrpcTransport();
  kvist::ClientOptions options;
  options.ns.model = "example";
  options.ns.layers = 4;
  options.ns.heads = 2;
  options.ns.head_dim = 64;
  options.ns.tokens_per_block = 16;
  options.codec = kvist::Codec::kRaw16;
  options.transport = transport.get();
  absl::StatusOr<kvist::View> view =
      kvist::LoadView(argv[1], absl::Now() + absl::Seconds(10), kvist::RealRuntime()->clock());
  if (!view.ok()) return fail(view.status());
  options.view = *std::move(view);
  absl::StatusOr<std::unique_ptr<kvist::Client>> client = kvist::Client::Create(options);
  if (!client.ok()) return fail(client.status());

  // An engine's pages: [2, layers, heads, tokens, head_dim] in bf16 bits. Here 100 tokens: six full blocks and a rest.
  const kvist::BlockShape shape = {4, 2, 16, 64, kvist::Dtype::kBf16};
  std::vector<uint32_t> tokens(100);
  std::vector<uint16_t> kv(2 * 4 * 2 * tokens.size() * 64), back(kv.size());
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(i);
  for (size_t i = 0; i < kv.size(); ++i) kv[i] = static_cast<uint16_t>(i % 0x4000);

  const std::vector<kvist::Key> chain = (*client)->Keys(tokens);
  const auto put = (*client)->Put(chain, kvist::ContiguousPages<const uint16_t>(kv.data(), shape, tokens.size()));
  if (!put.ok()) return fail(put.status());
  const absl::StatusOr<kvist::PrefixMatch> match = (*client)->Match(chain);
  if (!match.ok()) return fail(match.status());
  const auto got =
      (*client)->Get(chain, {0, match->blocks()}, kvist::ContiguousPages<uint16_t>(back.data(), shape, tokens.size()));
  if (!got.ok()) return fail(got.status());
  std::printf("stored %zu blocks, matched %zu tokens, read %zu blocks back\n", put->stored + put->present,
              match->tokens(), got->blocks);
  return put->failed == 0 && got->blocks == chain.size() ? 0 : 1;
}
