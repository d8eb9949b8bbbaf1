#include "services/worker/token_dropping.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr uint32_t kMostRowBytes = 1024, kRowStep = 8, kLeastRowBytes = 16;  // of u8 blocks (kernels/FORMAT.md)

// Bytes of a row of the positions' block: K and V of each of its tokens together hold 4 bytes a position.
uint64_t PositionRowBytes(uint64_t kept, uint32_t tokens_per_block) {
  const uint64_t least = (2 * kept + tokens_per_block - 1) / tokens_per_block;
  return std::max<uint64_t>(kLeastRowBytes, (least + kRowStep - 1) / kRowStep * kRowStep);
}

Namespace PositionsNamespace(const Namespace& ns, const DropPolicy& policy) {
  Namespace positions = KeptNamespace(ns, policy);
  absl::StrAppend(&positions.model, " positions");
  positions.dtype = Dtype::kU8;
  positions.layers = positions.heads = 1;
  positions.head_dim = static_cast<uint32_t>(PositionRowBytes(KeptBy(policy), ns.tokens_per_block));
  positions.profile_digest = {};
  return positions;
}

std::vector<uint16_t> PackPositions(const BlockShape& shape, absl::Span<const uint32_t> positions) {
  std::vector<uint16_t> units(shape.PlainBytes() / 2);
  for (size_t i = 0; i < positions.size(); ++i) {
    const uint8_t bytes[4] = {uint8_t(positions[i]), uint8_t(positions[i] >> 8), uint8_t(positions[i] >> 16),
                              uint8_t(positions[i] >> 24)};
    std::memcpy(&units[2 * i], bytes, sizeof(bytes));
  }
  return units;
}

std::vector<uint32_t> UnpackPositions(absl::Span<const uint16_t> units, size_t count) {
  std::vector<uint32_t> positions(count);
  for (size_t i = 0; i < count; ++i) {
    uint8_t bytes[4];
    std::memcpy(bytes, &units[2 * i], sizeof(bytes));
    positions[i] = uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
  }
  return positions;
}

bool ArePositions(absl::Span<const uint32_t> positions, size_t tokens) {
  return std::adjacent_find(positions.begin(), positions.end(), std::greater_equal<uint32_t>()) == positions.end() &&
         positions.back() < tokens;
}

// The kept rows side by side.
std::vector<uint16_t> Gather(const ConstPages& pages, const BlockShape& shape, absl::Span<const uint32_t> positions) {
  const size_t row = shape.RowUnits();
  std::vector<uint16_t> kept(2 * size_t{shape.layers} * shape.heads * positions.size() * row);
  const Pages to = ContiguousPages(kept.data(), shape, positions.size());
  for (size_t kv = 0; kv < 2; ++kv) {
    for (size_t layer = 0; layer < shape.layers; ++layer) {
      for (size_t head = 0; head < shape.heads; ++head) {
        for (size_t i = 0; i < positions.size(); ++i) {
          std::memcpy(to.Row(kv, layer, head, i), pages.Row(kv, layer, head, positions[i]), shape.RowBytes());
        }
      }
    }
  }
  return kept;
}

}  // namespace

std::string PolicyText(const DropPolicy& policy) {
  if (const auto* streaming = std::get_if<StreamingLlm>(&policy)) {
    return absl::StrCat("streaming sinks=", streaming->sinks, " window=", streaming->window);
  }
  const auto& hitters = std::get<HeavyHitters>(policy);
  return absl::StrCat("h2o recent=", hitters.recent, " heavy=", hitters.heavy);
}

uint64_t KeptBy(const DropPolicy& policy) {
  if (const auto* streaming = std::get_if<StreamingLlm>(&policy)) return uint64_t{streaming->sinks} + streaming->window;
  const auto& hitters = std::get<HeavyHitters>(policy);
  return uint64_t{hitters.recent} + hitters.heavy;
}

absl::Status ValidatePolicy(const DropPolicy& policy, uint32_t tokens_per_block) {
  const uint64_t kept = KeptBy(policy);
  if (kept == 0 || kept % tokens_per_block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(PolicyText(policy), " keeps ", kept, " tokens, which do not fill blocks of ", tokens_per_block));
  }
  const bool stored = std::holds_alternative<HeavyHitters>(policy);
  const uint64_t most = uint64_t{kMostRowBytes} / 2 * tokens_per_block;
  if (!stored || kept <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(PolicyText(policy), " keeps ", kept, " tokens; a block holds ", most, " positions"));
}

std::vector<uint32_t> StreamingPositions(const StreamingLlm& policy, uint32_t tokens) {
  std::vector<uint32_t> positions(policy.sinks + policy.window);
  const auto window = positions.begin() + policy.sinks;
  std::iota(positions.begin(), window, 0);
  std::iota(window, positions.end(), tokens - policy.window);
  return positions;
}

std::vector<uint32_t> HeavyHitterPositions(const HeavyHitters& policy, absl::Span<const float> attention) {
  const auto older = static_cast<uint32_t>(attention.size() - policy.recent);
  std::vector<uint32_t> positions(older);
  std::iota(positions.begin(), positions.end(), 0);
  std::nth_element(positions.begin(), positions.begin() + policy.heavy, positions.end(), [&](uint32_t a, uint32_t b) {
    return attention[a] != attention[b] ? attention[a] > attention[b] : a < b;
  });
  positions.resize(policy.heavy);
  std::sort(positions.begin(), positions.end());
  for (uint32_t i = 0; i < policy.recent; ++i) positions.push_back(older + i);
  return positions;
}

Namespace KeptNamespace(const Namespace& ns, const DropPolicy& policy) {
  Namespace kept = ns;
  absl::StrAppend(&kept.model, " kept: ", PolicyText(policy));
  return kept;
}

std::vector<Key> KeptKeys(const Namespace& kept_namespace, absl::Span<const uint32_t> prompt,
                          absl::Span<const uint32_t> positions) {
  const Digest digest = NamespaceDigest(kept_namespace);
  std::vector<Key> keys;
  Key parent = BlockKey(digest, Key{}, prompt, {"prompt"});
  for (; !positions.empty(); positions.remove_prefix(kept_namespace.tokens_per_block)) {
    parent = BlockKey(digest, parent, positions.first(kept_namespace.tokens_per_block), {"positions"});
    keys.push_back(parent);
  }
  return keys;
}

absl::StatusOr<std::unique_ptr<KeptTokens>> KeptTokens::Create(const ClientOptions& options, const DropPolicy& policy) {
  if (absl::Status valid = ValidateNamespace(options.ns); !valid.ok()) return valid;
  if (options.codec == Codec::kQ) {
    return absl::InvalidArgumentError(
        "codec q counts positions through the prompt, and these tokens have gaps: take another codec");
  }
  if (absl::Status valid = ValidatePolicy(policy, options.ns.tokens_per_block); !valid.ok()) return valid;
  ClientOptions of_kv = options;
  of_kv.ns = KeptNamespace(options.ns, policy);
  absl::StatusOr<std::unique_ptr<Client>> kv = Client::Create(std::move(of_kv));
  if (!kv.ok()) return kv.status();
  std::unique_ptr<Client> positions;
  if (std::holds_alternative<HeavyHitters>(policy)) {
    ClientOptions of_positions = options;
    of_positions.profile = nullptr;
    of_positions.ns = PositionsNamespace(options.ns, policy);
    of_positions.codec = Codec::kFp8p;
    of_positions.floor_db = 0;
    of_positions.min_precision = 0;
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(std::move(of_positions));
    if (!client.ok()) return client.status();
    positions = *std::move(client);
  }
  return std::unique_ptr<KeptTokens>(new KeptTokens(policy, *std::move(kv), std::move(positions)));
}

absl::Status KeptTokens::CheckPrompt(absl::Span<const uint32_t> prompt) const {
  if (prompt.size() > UINT32_MAX) return absl::InvalidArgumentError("a prompt of more tokens than positions count");
  if (prompt.size() > KeptBy(policy_)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a prompt of ", prompt.size(), " tokens; ", PolicyText(policy_),
                                                 " drops nothing of it: put it under its own prefix"));
}

Key KeptTokens::PositionsKey(absl::Span<const uint32_t> prompt) const {
  return BlockKey(NamespaceDigest(positions_->ns()), Key{}, prompt, {"prompt"});
}

absl::StatusOr<KeptTokens::Positions> KeptTokens::Read(absl::Span<const uint32_t> prompt) {
  const auto* streaming = std::get_if<StreamingLlm>(&policy_);
  if (streaming != nullptr) return Positions{StreamingPositions(*streaming, static_cast<uint32_t>(prompt.size())), {}};
  const BlockShape shape = positions_->ns().Shape();
  std::vector<uint16_t> units(shape.PlainBytes() / 2);
  absl::StatusOr<GetResult> got =
      positions_->Get({PositionsKey(prompt)}, {0, 1}, ContiguousPages(units.data(), shape, shape.tokens));
  if (!got.ok()) return got.status();
  if (got->blocks == 0) return Positions{{}, *std::move(got)};
  std::vector<uint32_t> kept = UnpackPositions(units, KeptBy(policy_));
  if (ArePositions(kept, prompt.size())) return Positions{std::move(kept), {}};
  GetResult miss;
  miss.miss = v1::MISS_REASON_CHECKSUM;
  miss.why = "the stored positions do not ascend within the prompt";
  return Positions{{}, miss};
}

absl::StatusOr<KeptTokens::Positions> KeptTokens::Settle(absl::Span<const uint32_t> prompt,
                                                         absl::Span<const float> attention) {
  const auto* hitters = std::get_if<HeavyHitters>(&policy_);
  if (hitters == nullptr) return Read(prompt);
  if (attention.size() != prompt.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(attention.size(), " attention sums for a prompt of ", prompt.size(), " tokens"));
  }
  if (std::any_of(attention.begin(), attention.end(), [](float sum) { return std::isnan(sum); })) {
    return absl::InvalidArgumentError("an attention sum is NaN");
  }
  std::vector<uint32_t> chosen = HeavyHitterPositions(*hitters, attention);
  const BlockShape shape = positions_->ns().Shape();
  const std::vector<uint16_t> units = PackPositions(shape, chosen);
  const absl::StatusOr<PutResult> put =
      positions_->Put({PositionsKey(prompt)}, ContiguousPages(units.data(), shape, shape.tokens));
  if (!put.ok()) return put.status();
  if (put->stored == 1) return Positions{std::move(chosen), {}};
  if (put->present == 1) return Read(prompt);
  GetResult miss;
  miss.why = put->failure;
  return Positions{{}, miss};
}

absl::StatusOr<PutResult> KeptTokens::Put(absl::Span<const uint32_t> prompt, absl::Span<const float> attention,
                                          const ConstPages& pages) {
  if (absl::Status checked = CheckPrompt(prompt); !checked.ok()) return checked;
  const absl::StatusOr<Positions> positions = Settle(prompt, attention);
  if (!positions.ok()) return positions.status();
  if (positions->kept.empty()) {  // nobody would find the KV
    PutResult result;
    result.blocks = result.failed = KeptBy(policy_) / kv_->ns().tokens_per_block;
    result.failure = absl::StrCat("the positions were not stored: ", positions->miss.why);
    return result;
  }
  const BlockShape shape = kv_->ns().Shape();
  const std::vector<uint16_t> kept = Gather(pages, shape, positions->kept);
  return kv_->Put(KeptKeys(kv_->ns(), prompt, positions->kept),
                  ContiguousPages(kept.data(), shape, positions->kept.size()));
}

absl::StatusOr<KeptGetResult> KeptTokens::Get(absl::Span<const uint32_t> prompt, const Pages& pages) {
  if (absl::Status checked = CheckPrompt(prompt); !checked.ok()) return checked;
  absl::StatusOr<Positions> positions = Read(prompt);
  if (!positions.ok()) return positions.status();
  if (positions->kept.empty()) return KeptGetResult{{}, std::move(positions->miss)};
  const std::vector<Key> chain = KeptKeys(kv_->ns(), prompt, positions->kept);
  absl::StatusOr<GetResult> got = kv_->Get(chain, {0, chain.size()}, pages);
  if (!got.ok()) return got.status();
  positions->kept.resize(got->blocks * kv_->ns().tokens_per_block);
  return KeptGetResult{std::move(positions->kept), *std::move(got)};
}

}  // namespace kvist
