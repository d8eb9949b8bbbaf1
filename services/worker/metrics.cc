#include "services/worker/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

#include "services/transport/miss_reason.h"

namespace kvist {
namespace {

using prometheus::MetricFamily;

void AddSeries(MetricFamily* family, double value, std::vector<prometheus::ClientMetric::Label> labels = {}) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  metric.counter.value = value;
  family->metric.push_back(std::move(metric));
}

MetricFamily Counter(std::string name, std::string help, double value) {
  MetricFamily family{std::move(name), std::move(help), prometheus::MetricType::Counter, {}};
  AddSeries(&family, value);
  return family;
}

MetricFamily Misses(const std::vector<uint64_t>& misses) {
  MetricFamily family{"kvist_worker_misses_total",
                      "Matches and Gets that a missing block ended, by its reason.",
                      prometheus::MetricType::Counter,
                      {}};
  for (size_t reason = 1; reason < misses.size(); ++reason) {
    AddSeries(&family, misses[reason], {{"reason", MissReasonName(static_cast<v1::MissReason>(reason))}});
  }
  return family;
}

}  // namespace

std::string ExposeMetrics(const ClientCounters& counters) {
  return prometheus::TextSerializer().Serialize({
      Counter("kvist_worker_matched_blocks_total", "Leading blocks that Match found.", counters.matched_blocks),
      Counter("kvist_worker_fetched_blocks_total", "Blocks delivered into pages.", counters.fetched_blocks),
      Counter("kvist_worker_fetched_bytes_total", "Encoded bytes received.", counters.fetched_bytes),
      Counter("kvist_worker_stored_blocks_total", "Blocks stored.", counters.stored_blocks),
      Counter("kvist_worker_stored_bytes_total", "Encoded bytes of blocks stored.", counters.stored_bytes),
      Counter("kvist_worker_encode_seconds_total", "CPU time of encoding, over all threads.",
              absl::ToDoubleSeconds(counters.encode_time)),
      Counter("kvist_worker_decode_seconds_total", "CPU time of verifying and decoding, over all threads.",
              absl::ToDoubleSeconds(counters.decode_time)),
      Counter("kvist_worker_checksum_failures_total", "Blocks that came with bytes other than those written.",
              counters.damaged),
      Counter("kvist_worker_retries_total", "Calls tried again.", counters.retries),
      Counter("kvist_worker_stale_views_total", "Answers of nodes that hold another view.", counters.stale_views),
      Counter("kvist_worker_view_refreshes_total", "Newer views that were learned.", counters.refreshes),
      Counter("kvist_worker_refused_views_total", "Views of nodes that were wrong.", counters.refused_views),
      Counter("kvist_worker_breaker_openings_total", "Nodes that were given up for a while.", counters.openings),
      Counter("kvist_worker_failovers_total",
              "Segments and blocks that were asked of another node than the one that should have them.",
              counters.failovers),
      Counter("kvist_worker_hedges_total", "Late streams whose blocks were asked of other nodes too.", counters.hedges),
      Counter("kvist_worker_adoptions_total", "Blocks that owners were told to fetch from where they were found.",
              counters.adoptions),
      Counter("kvist_worker_fetched_profiles_total", "Profiles of codec q fetched from nodes.",
              counters.fetched_profiles),
      Counter("kvist_worker_refused_profiles_total", "Profiles that came with other bytes than their name's, dropped.",
              counters.refused_profiles),
      Misses(counters.misses),
  });
}

}  // namespace kvist
