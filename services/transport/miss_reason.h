// The one home of miss reasons' names: store enum, wire enum and the words that metrics and users see.
#ifndef KVIST_SERVICES_TRANSPORT_MISS_REASON_H_
#define KVIST_SERVICES_TRANSPORT_MISS_REASON_H_

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "cachestore/block_store.h"
#include "kvist/v1/cache.pb.h"

namespace kvist {

// The wire's values repeat the store's in the same order (kDamaged and kTierLost excepted) and add those that only services find.
inline v1::MissReason ToWire(MissReason reason) {
  if (reason == MissReason::kDamaged) return v1::MISS_REASON_CHECKSUM;
  return reason == MissReason::kTierLost ? v1::MISS_REASON_TIER_LOST : static_cast<v1::MissReason>(reason);
}
inline MissReason FromWire(v1::MissReason reason) {
  if (reason == v1::MISS_REASON_CHECKSUM) return MissReason::kDamaged;
  if (reason == v1::MISS_REASON_TIER_LOST) return MissReason::kTierLost;
  return reason <= v1::MISS_REASON_BEING_WRITTEN ? static_cast<MissReason>(reason) : MissReason::kNeverStored;
}
static_assert(static_cast<int>(MissReason::kNeverStored) == v1::MISS_REASON_NEVER_STORED);
static_assert(static_cast<int>(MissReason::kEvicted) == v1::MISS_REASON_EVICTED);
static_assert(static_cast<int>(MissReason::kErased) == v1::MISS_REASON_ERASED);
static_assert(static_cast<int>(MissReason::kExpired) == v1::MISS_REASON_EXPIRED);
static_assert(static_cast<int>(MissReason::kBeingWritten) == v1::MISS_REASON_BEING_WRITTEN);

// "never_stored", "owner_down", "overloaded", ...; "" for a hit.
inline std::string MissReasonName(v1::MissReason reason) {
  if (reason == v1::MISS_REASON_UNSPECIFIED) return "";
  return absl::AsciiStrToLower(absl::StripPrefix(v1::MissReason_Name(reason), "MISS_REASON_"));
}

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_MISS_REASON_H_
