// Goal    Names of blocks are those of kernels/FORMAT.md, and two different namespaces never have the same bytes.
// Input   A script: the fields of a namespace, tokens and extra keys.
// Method  Differential against a second implementation that was written from FORMAT.md, SHA-256 included; the canonical
//         bytes are decoded back, so that equal bytes mean equal fields.
#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "services/worker/keys.h"
#include "tests/fuzz/fuzz.h"

namespace kvist {
namespace {

using fuzz::Gate;

Gate valid_namespace("a valid namespace"), several_blocks("a chain of several blocks"), extra_keys("extra keys"),
    long_text("a text that is too long");

// --- SHA-256, as FIPS 180-4 writes it ---

uint32_t Rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

void Compress(const uint8_t* chunk, std::array<uint32_t, 8>* state) {
  uint32_t w[64];
  for (int t = 0; t < 16; ++t) {
    w[t] = uint32_t{chunk[4 * t]} << 24 | uint32_t{chunk[4 * t + 1]} << 16 | uint32_t{chunk[4 * t + 2]} << 8 |
           uint32_t{chunk[4 * t + 3]};
  }
  for (int t = 16; t < 64; ++t) {
    const uint32_t small0 = Rotate(w[t - 15], 7) ^ Rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
    const uint32_t small1 = Rotate(w[t - 2], 17) ^ Rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
    w[t] = small1 + w[t - 7] + small0 + w[t - 16];
  }
  auto [a, b, c, d, e, f, g, h] = *state;
  for (int t = 0; t < 64; ++t) {
    const uint32_t big1 = Rotate(e, 6) ^ Rotate(e, 11) ^ Rotate(e, 25), choose = (e & f) ^ (~e & g);
    const uint32_t first = h + big1 + choose + kRound[t] + w[t];
    const uint32_t big0 = Rotate(a, 2) ^ Rotate(a, 13) ^ Rotate(a, 22), majority = (a & b) ^ (a & c) ^ (b & c);
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + big0 + majority;
  }
  const std::array<uint32_t, 8> sum = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) (*state)[i] += sum[i];
}

Digest SlowSha256(std::string bytes) {
  std::array<uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const uint64_t bits = uint64_t{bytes.size()} * 8;
  bytes.push_back('\x80');
  while (bytes.size() % 64 != 56) bytes.push_back('\0');
  for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(bits >> shift));
  for (size_t at = 0; at < bytes.size(); at += 64) Compress(reinterpret_cast<const uint8_t*>(&bytes[at]), &state);
  Digest digest;
  for (size_t i = 0; i < 32; ++i) digest[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

// --- FORMAT.md, "Namespaces" and "Keys" ---

std::string U32(uint32_t value) {
  return {static_cast<char>(value & 255), static_cast<char>(value >> 8 & 255), static_cast<char>(value >> 16 & 255),
          static_cast<char>(value >> 24)};
}
std::string Str(const std::string& text) { return U32(static_cast<uint32_t>(text.size())) + text; }
std::string Raw(absl::Span<const uint8_t> bytes) { return std::string(bytes.begin(), bytes.end()); }

std::string SlowBlockBytes(const Digest& ns, const Key& parent, absl::Span<const uint32_t> tokens,
                           absl::Span<const std::string> extra) {
  std::string bytes = "kvist.key.v1" + Raw(ns) + Raw(parent.bytes) + U32(static_cast<uint32_t>(tokens.size()));
  for (const uint32_t token : tokens) bytes += U32(token);
  bytes += U32(static_cast<uint32_t>(extra.size()));
  for (const std::string& part : extra) bytes += Str(part);
  return bytes;
}

// Reads the canonical bytes of a namespace back; nothing if they are not exactly that.
class Decoding {
 public:
  explicit Decoding(const std::string& bytes) : bytes_(bytes) {}

  std::optional<Namespace> Read() {
    Namespace ns;
    if (Take(18) != "kvist.namespace.v1") return std::nullopt;
    ns.model = Text();
    ns.weights_digest = Text();
    const std::string dtype = Text();
    ns.dtype = dtype == "f16" ? Dtype::kF16 : Dtype::kBf16;
    ns.layers = Number(), ns.heads = Number(), ns.head_dim = Number();
    ns.rope = Text();
    ns.tp_rank = Number(), ns.tp_size = Number(), ns.pp_rank = Number(), ns.pp_size = Number();
    ns.tokens_per_block = Number();
    const std::string profile = Take(16);
    ns.tenant_salt = Text();
    if (!good_ || at_ != bytes_.size() || (dtype != "f16" && dtype != "bf16")) return std::nullopt;
    std::copy(profile.begin(), profile.end(), ns.profile_digest.begin());
    return ns;
  }

 private:
  std::string Take(size_t size) {
    good_ = good_ && size <= bytes_.size() - at_;
    if (!good_) return "";
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  uint32_t Number() {
    const std::string four = Take(4);
    uint32_t number = 0;
    for (size_t i = 0; i < four.size(); ++i) number |= uint32_t{static_cast<uint8_t>(four[i])} << (8 * i);
    return number;
  }
  std::string Text() { return Take(Number()); }

  const std::string& bytes_;
  size_t at_ = 0;
  bool good_ = true;
};

bool Same(const Namespace& a, const Namespace& b) {
  const auto fields = [](const Namespace& ns) {
    return std::tie(ns.model, ns.weights_digest, ns.dtype, ns.layers, ns.heads, ns.head_dim, ns.rope, ns.tp_rank,
                    ns.tp_size, ns.pp_rank, ns.pp_size, ns.tokens_per_block, ns.profile_digest, ns.tenant_salt);
  };
  return fields(a) == fields(b);
}

// --- The script ---

std::string TakeText(fuzz::Input* input) {
  const uint8_t size = input->Byte();
  if (size == 255) return std::string(4097, static_cast<char>(input->Byte()));
  return input->Text(size % 48);
}

// Small values mostly, so that valid shapes are found.
uint32_t TakeNumber(fuzz::Input* input) {
  const uint8_t byte = input->Byte();
  return byte == 255 ? static_cast<uint32_t>(input->Number(4)) : byte;
}

Namespace TakeNamespace(fuzz::Input* input) {
  Namespace ns;
  ns.model = TakeText(input);
  ns.weights_digest = TakeText(input);
  ns.dtype = input->Flag() ? Dtype::kF16 : Dtype::kBf16;
  ns.layers = TakeNumber(input), ns.heads = TakeNumber(input), ns.head_dim = TakeNumber(input);
  ns.rope = TakeText(input);
  ns.tp_rank = TakeNumber(input), ns.tp_size = TakeNumber(input);
  ns.pp_rank = TakeNumber(input), ns.pp_size = TakeNumber(input);
  ns.tokens_per_block = TakeNumber(input);
  for (uint8_t& byte : ns.profile_digest) byte = input->Byte();
  ns.tenant_salt = TakeText(input);
  return ns;
}

void CheckNamespace(const Namespace& ns, const Namespace& near) {
  const std::string bytes = EncodeNamespace(ns);
  const std::optional<Namespace> again = Decoding(bytes).Read();
  KVIST_HOLDS(again && Same(*again, ns), "the canonical bytes do not say which namespace they are of");
  KVIST_HOLDS(NamespaceDigest(ns) == SlowSha256(bytes), "SHA-256");
  KVIST_HOLDS((EncodeNamespace(near) == bytes) == Same(near, ns), "two namespaces, one name");
  const absl::Status valid = ValidateNamespace(ns);
  KVIST_HOLDS(valid.ok() || !valid.message().empty(), "refused without a word");
  KVIST_HOLDS(valid.ok() == ValidateNamespace(*again).ok(), "validity is not a matter of the bytes");
  if (valid.ok()) valid_namespace.Pass();
  if (ns.model.size() > 4096) long_text.Pass();
}

void CheckChain(const Digest& digest, uint32_t tokens_per_block, const std::vector<uint32_t>& tokens,
                const std::vector<std::string>& extra) {
  const std::vector<Key> keys = ChainKeys(digest, tokens_per_block, tokens, extra);
  KVIST_HOLDS(keys.size() == tokens.size() / tokens_per_block, keys.size(), " keys");
  Key parent;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto block = absl::MakeConstSpan(tokens).subspan(i * tokens_per_block, tokens_per_block);
    KVIST_HOLDS(keys[i].bytes == SlowSha256(SlowBlockBytes(digest, parent, block, extra)), "key ", i);
    parent = keys[i];
  }
  // A chain that differs in one token differs from there on, and nowhere before.
  if (keys.empty()) return;
  std::vector<uint32_t> other = tokens;
  const size_t changed = tokens[0] % (keys.size() * tokens_per_block);
  other[changed] ^= 1;
  const std::vector<Key> others = ChainKeys(digest, tokens_per_block, other, extra);
  for (size_t i = 0; i < keys.size(); ++i) {
    KVIST_HOLDS((keys[i] == others[i]) == (i < changed / tokens_per_block), "token ", changed, ", key ", i);
  }
  if (keys.size() > 1) several_blocks.Pass();
  if (!extra.empty()) extra_keys.Pass();
}

void Run(fuzz::Input input) {
  const Namespace ns = TakeNamespace(&input);
  const uint8_t keep = input.Byte();
  std::vector<std::string> extra(input.Below(4));
  for (std::string& part : extra) part = TakeText(&input);
  const uint32_t tokens_per_block = 1 + static_cast<uint32_t>(input.Below(20));
  std::vector<uint32_t> tokens(input.Below(24));
  for (uint32_t& token : tokens) token = TakeNumber(&input);

  // A second namespace whose texts are the first one's with borders moved: what an encoding without lengths confuses.
  Namespace near = ns;
  const std::string joined = ns.model + ns.weights_digest;
  const size_t border = keep % (joined.size() + 1);
  near.model = joined.substr(0, border);
  near.weights_digest = joined.substr(border);
  CheckNamespace(ns, near);
  const Digest digest = NamespaceDigest(ns);
  CheckChain(digest, tokens_per_block, tokens, extra);
  const std::string hash = joined.substr(0, 64);
  KVIST_HOLDS(EngineKey(digest, hash).bytes == SlowSha256("kvist.key.engine.v1" + Raw(digest) + Str(hash)),
              "engine key");
}

}  // namespace
}  // namespace kvist

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvist::Run(kvist::fuzz::Input(data, size));
  return 0;
}
