#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/cluster/records.h"
#include "services/node/block_check.h"
#include "services/node/handlers_state.h"
#include "services/node/request_keys.h"
#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

std::string AsText(const std::array<uint8_t, 16>& digest) {
  return std::string(reinterpret_cast<const char*>(digest.data()), digest.size());
}

// The sentence of a block that is not here.
std::string WhyGone(const Lookup& lookup, absl::Time now) {
  const std::string ago =
      lookup.gone == absl::InfinitePast()
          ? ""
          : absl::StrCat(" ", absl::FormatDuration(absl::Trunc(now - lookup.gone, absl::Seconds(1))), " ago");
  switch (lookup.miss) {
    case MissReason::kEvicted:
      return lookup.made_room_for == Key() ? absl::StrCat("evicted", ago)
                                           : absl::StrCat("evicted", ago, " for block ", lookup.made_room_for.Hex());
    case MissReason::kErased:
      return absl::StrCat("erased by request", ago);
    case MissReason::kExpired:
      return absl::StrCat("expired", ago);
    case MissReason::kDamaged:
      return absl::StrCat("its checksum did not hold; dropped", ago);
    case MissReason::kTierLost:
      return absl::StrCat("lost with the device that held it", ago);
    case MissReason::kBeingWritten:
      return "a writer has reserved it and not committed yet";
    case MissReason::kNone:
    case MissReason::kNeverStored:
      break;
  }
  return "no record of it on this node: never stored, or gone for longer than the node remembers";
}

// Says whose block it is, if it is not the caller's. Two namespaces are compared once, however many blocks ask.
class Owners {
 public:
  Owners(const Namespaces* known, TenantId tenant, std::string asked,
         std::shared_ptr<const NamespaceFields> asked_fields)
      : known_(known), tenant_(tenant), asked_(std::move(asked)), asked_fields_(std::move(asked_fields)) {}

  const std::string& asked() const { return asked_; }
  const std::string& WhoseBlock(const std::string& stored) {
    const auto [sentence, added] = sentences_.try_emplace(stored);
    if (!added) return sentence->second;
    sentence->second = absl::StrCat("stored under this key for namespace ", absl::BytesToHexString(stored),
                                    ", asked for ", absl::BytesToHexString(asked_));
    const std::shared_ptr<const NamespaceFields> fields =
        asked_fields_ == nullptr ? nullptr : known_->Find(tenant_, stored);
    if (fields != nullptr) {
      absl::StrAppend(&sentence->second, ": ", NamespaceDifference(*fields, *asked_fields_));
    }
    return sentence->second;
  }

 private:
  const Namespaces* const known_;
  const TenantId tenant_;
  const std::string asked_;
  const std::shared_ptr<const NamespaceFields> asked_fields_;  // null = unknown
  absl::flat_hash_map<std::string, std::string> sentences_;    // by the digest of the stored block
};

void DescribeHit(const Lookup& lookup, const Key& key, Owners* owners, v1::BlockFate* fate) {
  const absl::StatusOr<BlockHead> head = BlockHead::Read(lookup.block->pieces());
  if (!head.ok()) {
    fate->set_miss(v1::MISS_REASON_CHECKSUM);
    fate->set_detail(std::string(head.status().message()));
    return;
  }
  const BlockIdentity& identity = head->view().identity();
  if (identity.key != key.bytes) {
    fate->set_miss(v1::MISS_REASON_IDENTITY_MISMATCH);
    fate->set_detail(absl::StrCat("the block under this key says that its key is ", Key{identity.key}.Hex()));
  } else if (!head->IsOf(owners->asked())) {
    fate->set_miss(v1::MISS_REASON_IDENTITY_MISMATCH);
    fate->set_detail(owners->WhoseBlock(AsText(identity.namespace_digest)));
  } else {
    fate->set_tier(static_cast<v1::Tier>(lookup.tier));
    fate->set_size_bytes(lookup.block->size_bytes());
    if (const absl::Time end = lookup.traits.expires; end != absl::InfiniteFuture()) {
      fate->set_expires_unix_ms(absl::ToUnixMillis(end));
    }
    fate->set_detail(absl::StrCat("present, in codec ", std::string(CodecName(head->view().codec()))));
  }
}
static_assert(static_cast<int>(Tier::kHost) == v1::TIER_HOST && static_cast<int>(Tier::kDisk) == v1::TIER_DISK);

}  // namespace

absl::StatusOr<v1::ExplainResponse> ExplainBlocks(HandlersState* state, const Caller& caller,
                                                  const v1::ExplainRequest& request) {
  const absl::StatusOr<TenantId> tenant = state->TenantFor(caller, request.tenant());
  if (!tenant.ok()) return tenant.status();
  const absl::StatusOr<std::vector<Key>> keys = ParseKeys(request.keys(), state->options.limits.max_keys, *tenant);
  if (!keys.ok()) return keys.status();
  if (const size_t size = request.namespace_digest().size(); size != 0 && size != 16) {
    return absl::InvalidArgumentError(absl::StrCat("namespace_digest has ", size, " bytes; it is 16 bytes, or absent"));
  }
  v1::ExplainResponse response;
  std::shared_ptr<const NamespaceFields> asked = state->namespaces.Find(*tenant, request.namespace_digest());
  if (!request.namespace_text().empty()) {
    absl::StatusOr<NamespaceFields> fields = ParseNamespace(request.namespace_text());
    if (!fields.ok()) return fields.status();
    asked = std::make_shared<const NamespaceFields>(*std::move(fields));
    for (v1::NearNamespace& ns : state->namespaces.Near(*tenant, request.namespace_digest(), *asked)) {
      *response.add_near() = std::move(ns);
    }
  }
  Owners owners(&state->namespaces, *tenant, request.namespace_digest(), std::move(asked));
  const absl::Time now = state->Now();
  for (const Key& key : *keys) {
    absl::StatusOr<Lookup> lookup = state->store().Get(key, /*touch=*/false);
    if (!lookup.ok()) return lookup.status();
    // What another tenant stored is not for this one to know.
    if (lookup->made_room_for.tenant != *tenant) lookup->made_room_for = Key();
    v1::BlockFate* fate = response.add_fates();
    if (lookup->block != nullptr) {
      DescribeHit(*lookup, key, &owners, fate);
      continue;
    }
    fate->set_miss(ToWire(lookup->miss));
    if (lookup->gone != absl::InfinitePast()) fate->set_gone_unix_ms(absl::ToUnixMillis(lookup->gone));
    if (lookup->made_room_for != Key()) {
      fate->set_made_room_for(lookup->made_room_for.bytes.data(), Key::kBytes);
    }
    fate->set_detail(WhyGone(*lookup, now));
  }
  const std::shared_ptr<const View> view = state->view();
  response.set_view(view == nullptr ? 0 : view->number.value);
  if (view != nullptr && request.view() != 0 && request.view() < view->number.value) {
    *response.mutable_newer_view() = ViewToWire(*view);
  }
  return response;
}

}  // namespace kvist
