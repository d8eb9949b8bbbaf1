// What a node's /metrics say of its tiers: each tier's own figures, what moves between them, and the device's state.
#ifndef KVIST_SERVICES_NODE_TIER_FIGURES_H_
#define KVIST_SERVICES_NODE_TIER_FIGURES_H_

#include <string>

#include "cachestore/tiered_store.h"
#include "services/node/metrics.h"

namespace kvist {

// `without_device` is the state of a store that has no device tier: "none" was asked for, or it is "absent" though one
// was. `store` outlives the exposition of `metrics`.
void AddTierFigures(TieredStore* store, const std::string& without_device, Metrics* metrics);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_TIER_FIGURES_H_
