#include "services/node/tier_figures.h"

#include <functional>
#include <map>
#include <utility>

namespace kvist {
namespace {

using Labels = std::map<std::string, std::string>;

std::string StateOf(TieredStore* store, const std::string& without_device) {
  switch (store->device_state()) {
    case DeviceState::kReady:
      return "ready";
    case DeviceState::kLost:
      return "lost";
    case DeviceState::kNone:
      break;
  }
  return without_device;
}

void AddMoves(TieredStore* store, Metrics* metrics) {
  using Figures = TierMover::Figures;
  const auto moved = [&](const char* name, const char* help, const char* direction, uint64_t Figures::*figure) {
    metrics->AddFigure(Metrics::Kind::kCounter, name, help, {{"direction", direction}},
                       [store, figure] { return store->tiers().moves.*figure; });
  };
  constexpr char kBlocks[] = "Blocks copied up into device memory, or down before it would evict them.";
  constexpr char kBytes[] = "Encoded bytes of those.";
  constexpr char kRefused[] = "Moves not begun: a queue, the bandwidth or the room did not allow them.";
  moved("kvist_moved_blocks_total", kBlocks, "up", &Figures::promoted_blocks);
  moved("kvist_moved_blocks_total", kBlocks, "down", &Figures::demoted_blocks);
  moved("kvist_moved_bytes_total", kBytes, "up", &Figures::promoted_bytes);
  moved("kvist_moved_bytes_total", kBytes, "down", &Figures::demoted_bytes);
  moved("kvist_refused_moves_total", kRefused, "up", &Figures::refused_promotions);
  moved("kvist_refused_moves_total", kRefused, "down", &Figures::refused_demotions);
}

void AddDevice(TieredStore* store, Metrics* metrics) {
  const auto add = [&](Metrics::Kind kind, const char* name, const char* help, uint64_t TierFigures::*figure) {
    metrics->AddFigure(kind, name, help, {}, [store, figure] { return store->tiers().*figure; });
  };
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_dropped_moves_total",
                     "Moves called off: the block was erased or expired, or the device failed.", {},
                     [store] { return store->tiers().moves.dropped_moves; });
  add(Metrics::Kind::kCounter, "kvist_lost_to_eviction_blocks_total",
      "Blocks that the device tier evicted and no other tier had.", &TierFigures::lost_to_eviction);
  add(Metrics::Kind::kCounter, "kvist_dropped_device_copies_total",
      "Copies that the device forgot because a reader found damage and the host's copy was whole.",
      &TierFigures::dropped_copies);
  add(Metrics::Kind::kGauge, "kvist_staging_bytes", "Pinned host memory that copies to and from the device go through.",
      &TierFigures::staging_bytes);
  add(Metrics::Kind::kGauge, "kvist_staging_free_bytes", "Of that, what no copy or reader holds.",
      &TierFigures::staging_free_bytes);
  add(Metrics::Kind::kGauge, "kvist_late_copies", "Copies whose deadline has passed and that the device still has.",
      &TierFigures::late_copies);
}

}  // namespace

void AddTierFigures(TieredStore* store, const std::string& without_device, Metrics* metrics) {
  const bool device = store->device() != nullptr;
  metrics->AddTier("host", [store] {
    TierFigures figures = store->tiers();
    return TierReading{figures.host, figures.host_life};
  });
  if (device) {
    metrics->AddTier("device", [store] {
      TierFigures figures = store->tiers();
      return TierReading{figures.device, figures.device_life};
    });
  }
  for (const char* state : {"none", "absent", "ready", "lost"}) {
    metrics->AddFigure(Metrics::Kind::kGauge, "kvist_device_state",
                       "1 for the state that the device tier is in; absent: asked for, and not to be had here.",
                       {{"state", state}},
                       [store, without_device, state] { return StateOf(store, without_device) == state; });
  }
  constexpr char kHits[] = "Reads of blocks that were found, by the tier that served them.";
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_tier_hit_blocks_total", kHits, {{"tier", "host"}},
                     [store] { return store->tiers().host_hits; });
  if (!device) return;
  metrics->AddFigure(Metrics::Kind::kCounter, "kvist_tier_hit_blocks_total", kHits, {{"tier", "device"}},
                     [store] { return store->tiers().device_hits; });
  AddMoves(store, metrics);
  AddDevice(store, metrics);
}

}  // namespace kvist
