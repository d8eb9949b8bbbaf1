// The plain files that `kvist` reads and writes: a namespace, a prompt's tokens or keys, a prompt's KV.
//
//   namespace  {"model": "m", "weights_digest": "", "dtype": "bf16", "layers": 30, "heads": 3, "head_dim": 64,
//               "rope": "", "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "tokens_per_block": 128,
//               "profile_digest": "", "tenant_salt": ""}
//              model, dtype, layers, heads and head_dim are needed; profile_digest is 32 hex digits
//   tokens     [1, 2, 3]
//   chain      ["64 hex digits", ...], the keys of a prompt's blocks, from the first block on
//   KV         uint16[2][layers][heads][tokens][head_dim], little-endian, nothing else: the layout of the C ABI; uint8 of
//              the dtypes of one byte
//
//   profile    what `kvist calibrate` makes (kernels/FORMAT.md, "Profile files")
//
// Errors: InvalidArgument and NotFound name the file, and everything that is wrong in it at once.
#ifndef KVIST_SERVICES_CTL_INPUT_FILES_H_
#define KVIST_SERVICES_CTL_INPUT_FILES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cachestore/key.h"
#include "services/worker/keys.h"
#include "services/worker/open_profile.h"

namespace kvist {

absl::StatusOr<Namespace> ReadNamespaceFile(const std::string& path);
absl::StatusOr<std::vector<uint32_t>> ReadTokensFile(const std::string& path);
absl::StatusOr<std::vector<Key>> ReadChainFile(const std::string& path);

// The same of a file's text; `path` is what errors name.
absl::StatusOr<Namespace> ParseNamespace(const std::string& path, absl::string_view text);
absl::StatusOr<std::vector<uint32_t>> ParseTokens(const std::string& path, absl::string_view text);
absl::StatusOr<std::vector<Key>> ParseChain(const std::string& path, absl::string_view text);

// Errors: also those of OpenProfile::Open.
absl::StatusOr<std::shared_ptr<const OpenProfile>> ReadProfileFile(const std::string& path);
// Errors: Unavailable if the file cannot be written.
absl::Status WriteProfileFile(const std::string& path, const OpenProfile& profile);

struct Kv {
  std::vector<uint16_t> values;
  size_t tokens = 0;  // that it holds
};
// Errors: also InvalidArgument when the file is no whole number of tokens of this shape, or holds fewer than
// `least_tokens`.
absl::StatusOr<Kv> ReadKvFile(const std::string& path, const BlockShape& shape, size_t least_tokens);

// Writes the first `tokens` of `kv`. Errors: Unavailable if the file cannot be written.
absl::Status WriteKvFile(const std::string& path, const BlockShape& shape, const Kv& kv, size_t tokens);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_INPUT_FILES_H_
