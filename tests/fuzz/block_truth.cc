#include "tests/fuzz/block_truth.h"

#include <array>
#include <numeric>
#include <random>
#include <unordered_map>

#include "kernels/half.h"
#include "tests/fuzz/fuzz.h"

namespace kvist::fuzz {
namespace {

constexpr BlockShape kShape = {1, 1, 16, 64, Dtype::kBf16};

BlockIdentity IdentityOf(size_t block) {
  BlockIdentity identity;
  identity.key = TrueChain()[block].bytes;
  const Digest digest = NamespaceDigest(TrueNamespace());
  std::copy_n(digest.begin(), identity.namespace_digest.size(), identity.namespace_digest.begin());
  identity.first_position = static_cast<uint32_t>(block * kShape.tokens);
  return identity;
}

std::vector<uint16_t> Values(const BlockShape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(shape.Elements());
  for (uint16_t& value : values) value = Narrow(normal(random), shape.dtype);
  return values;
}

std::string Encoded(const BlockIdentity& identity, const BlockShape& shape, Codec codec,
                    const std::vector<uint16_t>& values) {
  std::vector<uint8_t> block(MaxBlockBytes(shape, codec));
  const auto size = Encode(identity, shape, ContiguousPages<const uint16_t>(values.data(), shape, shape.tokens),
                           {codec, 0}, absl::MakeSpan(block));
  KVIST_HOLDS(size.ok(), size.status().message());
  return std::string(block.begin(), block.begin() + static_cast<std::ptrdiff_t>(*size));
}

TrueForm MakeForm(std::string bytes) {
  TrueForm form;
  form.bytes = std::move(bytes);
  form.plain.resize(kShape.Elements());
  const auto view =
      BlockView::Parse({reinterpret_cast<const uint8_t*>(form.bytes.data()), form.bytes.size()});  // as it is kept
  KVIST_HOLDS(view.ok(), view.status().message());
  form.codec = view->codec();
  form.precision = view->MaxPrecision();
  form.min_sqnr_db = view->min_sqnr_db();
  const Pages pages = ContiguousPages(form.plain.data(), kShape, kShape.tokens);
  KVIST_HOLDS(Decode(*view, {0, kShape.layers}, 0, Basis::kOriginal, pages).ok(), "a true block is decoded");
  return form;
}

std::vector<TrueForm> MakeForms(size_t block) {
  const std::vector<uint16_t> values = Values(kShape, block + 1);
  std::vector<TrueForm> forms;
  for (const Codec codec : {Codec::kRaw16, Codec::kI8, Codec::kLadder}) {
    forms.push_back(MakeForm(Encoded(IdentityOf(block), kShape, codec, values)));
  }
  const std::string ladder = forms.back().bytes;
  const auto view = BlockView::Parse({reinterpret_cast<const uint8_t*>(ladder.data()), ladder.size()});
  for (const int precision : {3, 2}) {
    const auto ranges = view->RangesFor(0, kShape.layers, precision);
    KVIST_HOLDS(ranges.ok(), ranges.status().message());
    forms.push_back(MakeForm(ladder.substr(0, ranges->back().offset + ranges->back().size_bytes)));
  }
  return forms;
}

std::vector<std::string> MakeForeign(size_t block) {
  const BlockIdentity own = IdentityOf(block);
  std::vector<std::string> foreign;
  const auto add = [&](const BlockIdentity& identity, BlockShape shape) {
    foreign.push_back(Encoded(identity, shape, Codec::kRaw16, Values(shape, 1000 + block)));
  };
  add(IdentityOf((block + 1) % kTrueBlocks), kShape);
  BlockIdentity other = own;
  other.namespace_digest[15] ^= 1;
  add(other, kShape);
  other = own;
  other.first_position += kShape.tokens;
  add(other, kShape);
  other = own;
  other.profile_digest[0] = 1;
  add(other, kShape);
  add(own, {kShape.layers, kShape.heads, kShape.tokens, kShape.head_dim, Dtype::kF16});
  add(own, {2, 1, kShape.tokens, kShape.head_dim, kShape.dtype});
  KVIST_HOLDS(foreign.size() == kForeignKinds, foreign.size());
  return foreign;
}

}  // namespace

const Namespace& TrueNamespace() {
  static const auto* const ns = [] {
    auto* made = new Namespace;
    made->model = "fuzz";
    made->layers = kShape.layers;
    made->heads = kShape.heads;
    made->head_dim = kShape.head_dim;
    made->tokens_per_block = kShape.tokens;
    return made;
  }();
  return *ns;
}

const std::vector<Key>& TrueChain() {
  static const auto* const chain = [] {
    std::vector<uint32_t> tokens(kChainKeys * kShape.tokens);
    std::iota(tokens.begin(), tokens.end(), 7);
    return new std::vector<Key>(ChainKeys(NamespaceDigest(TrueNamespace()), kShape.tokens, tokens));
  }();
  return *chain;
}

std::optional<size_t> BlockOf(std::string_view key) {
  static const auto* const blocks = [] {
    auto* made = new std::unordered_map<std::string_view, size_t>;
    for (size_t block = 0; block < kChainKeys; ++block) {
      const Key& name = TrueChain()[block];
      made->emplace(std::string_view(reinterpret_cast<const char*>(name.bytes.data()), name.bytes.size()), block);
    }
    return made;
  }();
  const auto found = blocks->find(key);
  return found == blocks->end() ? std::nullopt : std::optional(found->second);
}

const std::vector<TrueForm>& TrueForms(size_t block) {
  static const auto* const forms = [] {
    auto* made = new std::vector<std::vector<TrueForm>>;
    for (size_t i = 0; i < kTrueBlocks; ++i) made->push_back(MakeForms(i));
    return made;
  }();
  return (*forms)[block];
}

const std::string& ForeignBlock(size_t block, size_t kind) {
  static const auto* const foreign = [] {
    auto* made = new std::vector<std::vector<std::string>>;
    for (size_t i = 0; i < kTrueBlocks; ++i) made->push_back(MakeForeign(i));
    return made;
  }();
  return (*foreign)[block][kind];
}

}  // namespace kvist::fuzz
