#include "services/node/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"

namespace kvist {
namespace {

using prometheus::BuildCounter;
using prometheus::MetricFamily;
using prometheus::MetricType;

// About x2 to x2.5, from a local call to the longest deadline.
const prometheus::Histogram::BucketBoundaries kSecondsBuckets = {
    .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};

constexpr std::array<std::string_view, kMethods> kMethodNames = {
    "match",    "get",    "put",      "erase", "release", "server_info", "explain",
    "describe", "report", "get_view", "adopt", "drain",   "put_profile", "get_profile"};
constexpr std::array<const char*, 4> kFoundBy = {"scrub", "report", "copy", "read"};
constexpr std::array<const char*, 3> kStreamEnds = {"slow_reader", "slow_writer", "deadline"};
constexpr std::array<std::string_view, 3> kRefusalCauses = {"checksum", "identity", "format"};

std::string CodeName(int code) {
  return absl::AsciiStrToLower(absl::StatusCodeToString(static_cast<absl::StatusCode>(code)));
}

MetricFamily Family(MetricType type, std::string name, std::string help, double value,
                    std::vector<prometheus::ClientMetric::Label> labels = {}) {
  MetricFamily family{std::move(name), std::move(help), type, {}};
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  if (type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
  return family;
}

// Figures of StoreStats, each a family with a metric for every tier.
struct StoreFigure {
  MetricType type;
  const char *name, *help;
  uint64_t StoreStats::*read;
};
constexpr StoreFigure kStoreFigures[] = {
    {MetricType::Gauge, "kvist_blocks", "Committed blocks in the tier.", &StoreStats::blocks},
    {MetricType::Gauge, "kvist_tokens", "Tokens whose KV those hold.", &StoreStats::tokens},
    {MetricType::Gauge, "kvist_capacity_bytes", "Bytes that the tier may hold.", &StoreStats::capacity_bytes},
    {MetricType::Gauge, "kvist_used_bytes", "Encoded bytes of committed blocks.", &StoreStats::used_bytes},
    {MetricType::Gauge, "kvist_logical_bytes", "Bytes of committed blocks before encoding, 16 bits a value.",
     &StoreStats::plain_bytes},
    {MetricType::Gauge, "kvist_pinned_bytes", "Bytes of blocks that readers or leases pin.", &StoreStats::pinned_bytes},
    {MetricType::Gauge, "kvist_reserved_bytes", "Bytes reserved by writers that have not committed.",
     &StoreStats::reserved_bytes},
    {MetricType::Gauge, "kvist_leases", "Leases that have not ended.", &StoreStats::leases},
    {MetricType::Counter, "kvist_expired_leases_total", "Leases that ended by their deadline.",
     &StoreStats::expired_leases},
    {MetricType::Counter, "kvist_refused_reservations_total", "Reservations refused for want of room.",
     &StoreStats::refused_reservations},
};

// Histograms of LifeFigures.
struct LifeFigure {
  const char *name, *help;
  Ages LifeFigures::*read;
};
constexpr LifeFigure kLifeFigures[] = {
    {"kvist_reuse_gap_seconds",
     "Time between two uses of a block; less than a second apart is one use. Larger than the eviction age: the tier is "
     "too small.",
     &LifeFigures::reuse_gap},
    {"kvist_eviction_age_seconds", "Time since the last use of blocks that were evicted for room.",
     &LifeFigures::eviction_age},
    {"kvist_block_lifetime_seconds", "Time from a block's commit to its end, whatever ended it.",
     &LifeFigures::lifetime},
};

// What ends a block.
struct RemovalCause {
  const char* name;
  MissReason why;
};
constexpr RemovalCause kRemovalCauses[] = {{"evicted", MissReason::kEvicted},
                                           {"erased", MissReason::kErased},
                                           {"damaged", MissReason::kDamaged},
                                           {"expired", MissReason::kExpired}};

prometheus::ClientMetric HistogramOf(const Ages& ages) {
  prometheus::ClientMetric metric;
  uint64_t cumulative = 0;
  for (size_t i = 0; i < ages.counts.size(); ++i) {
    cumulative += ages.counts[i];
    const double bound = i < Ages::kBounds.size() ? Ages::kBounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({cumulative, bound});
  }
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = ages.sum_seconds;
  return metric;
}

// One family a name: metrics of one name that differ in their labels come one after the other.
void Append(MetricFamily made, std::vector<MetricFamily>* families) {
  if (!families->empty() && families->back().name == made.name) {
    families->back().metric.push_back(std::move(made.metric[0]));
  } else {
    families->push_back(std::move(made));
  }
}

}  // namespace

std::string_view MethodName(Method method) { return kMethodNames[static_cast<size_t>(method)]; }

Metrics::Metrics(const std::string& node_id, const std::string& version)
    : registry_(std::make_unique<prometheus::Registry>()), lookups_(registry_.get()), namespaces_(registry_.get()) {
  RegisterRpcs();
  RegisterBlocks();
  auto& overloads = BuildCounter()
                        .Name("kvist_overload_refusals_total")
                        .Help("Requests refused because the node was at a limit, by limit.")
                        .Register(*registry_);
  for (int bound = 0; bound < kBounds; ++bound) {
    overloads_[bound] = &overloads.Add({{"limit", std::string(BoundName(static_cast<Bound>(bound)))}});
  }
  auto& ended = BuildCounter()
                    .Name("kvist_ended_streams_total")
                    .Help("Streams that the node ended to get back what they held, by cause.")
                    .Register(*registry_);
  for (size_t i = 0; i < kStreamEnds.size(); ++i) ended_streams_[i] = &ended.Add({{"cause", kStreamEnds[i]}});
  prometheus::BuildGauge()
      .Name("kvist_build_info")
      .Help("Constant 1; the labels say what runs.")
      .Register(*registry_)
      .Add({{"node", node_id}, {"version", version}})
      .Set(1);
}

void Metrics::RegisterRpcs() {
  auto& rpc_seconds = prometheus::BuildHistogram()
                          .Name("kvist_rpc_seconds")
                          .Help("Duration of RPCs, from the first byte of the request to the end of the response.")
                          .Register(*registry_);
  auto& rpcs = BuildCounter().Name("kvist_rpcs_total").Help("RPCs ended, by status code.").Register(*registry_);
  for (int method = 0; method < kMethods; ++method) {
    const std::string name(kMethodNames[method]);
    rpc_seconds_[method] = &rpc_seconds.Add({{"method", name}}, kSecondsBuckets);
    for (int code = 0; code < 17; ++code) rpcs_[method][code] = &rpcs.Add({{"method", name}, {"code", CodeName(code)}});
  }
}

void Metrics::RegisterBlocks() {
  const auto counter = [this](const char* name, const char* help) {
    return &BuildCounter().Name(name).Help(help).Register(*registry_).Add({});
  };
  sent_bytes_ = counter("kvist_sent_bytes_total", "Block bytes sent to readers.");
  received_bytes_ = counter("kvist_received_bytes_total", "Block bytes received from writers.");
  scrubbed_ = counter("kvist_scrubbed_blocks_total", "Resting blocks that the scrubber verified.");
  conflicts_ = counter("kvist_conflicting_blocks_total",
                       "Copies that came with other bytes than the stored block's, both valid; the first was kept.");
  auto& refused = BuildCounter()
                      .Name("kvist_refused_blocks_total")
                      .Help("Blocks refused at commit, by cause; cause checksum counts checksum failures.")
                      .Register(*registry_);
  for (std::string_view cause : kRefusalCauses) {
    refused_blocks_.emplace(cause, &refused.Add({{"cause", std::string(cause)}}));
  }
  auto& damaged = BuildCounter()
                      .Name("kvist_damaged_blocks_total")
                      .Help("Resting blocks whose bytes were not those that were written, dropped; by what found them.")
                      .Register(*registry_);
  for (size_t i = 0; i < kFoundBy.size(); ++i) damaged_[i] = &damaged.Add({{"found_by", kFoundBy[i]}});
}

Metrics::~Metrics() = default;

void Metrics::CountRpc(Method method, absl::StatusCode code, absl::Duration took) {
  rpc_seconds_[static_cast<size_t>(method)]->Observe(absl::ToDoubleSeconds(took));
  rpcs_[static_cast<size_t>(method)][static_cast<size_t>(code)]->Increment();
}

void Metrics::CountSent(uint64_t bytes) { sent_bytes_->Increment(bytes); }
void Metrics::CountReceived(uint64_t bytes) { received_bytes_->Increment(bytes); }

void Metrics::CountRefusedBlock(std::string_view cause) {
  if (auto found = refused_blocks_.find(cause); found != refused_blocks_.end()) found->second->Increment();
}

void Metrics::CountOverload(Bound limit) { overloads_[static_cast<size_t>(limit)]->Increment(); }
void Metrics::CountEndedStream(StreamEnd cause) { ended_streams_[static_cast<size_t>(cause)]->Increment(); }
void Metrics::CountScrubbed() { scrubbed_->Increment(); }
void Metrics::CountDamaged(FoundBy found_by) { damaged_[static_cast<size_t>(found_by)]->Increment(); }
void Metrics::CountConflict() { conflicts_->Increment(); }

void Metrics::AddFigure(Kind kind, std::string name, std::string help, std::map<std::string, std::string> labels,
                        std::function<double()> read) {
  figures_.push_back({kind, std::move(name), std::move(help), std::move(labels), std::move(read)});
}

void Metrics::AddTier(const std::string& tier, std::function<TierReading()> read) {
  tiers_.push_back({tier, std::move(read)});
}

void Metrics::AppendTiers(std::vector<MetricFamily>* families) const {
  std::vector<TierReading> readings;
  for (const TierSource& source : tiers_) readings.push_back(source.read());
  for (const StoreFigure& figure : kStoreFigures) {
    for (size_t i = 0; i < tiers_.size(); ++i) {
      Append(Family(figure.type, figure.name, figure.help, readings[i].stats.*figure.read, {{"tier", tiers_[i].tier}}),
             families);
    }
  }
  for (const LifeFigure& figure : kLifeFigures) {
    MetricFamily family{figure.name, figure.help, MetricType::Histogram, {}};
    for (size_t i = 0; i < tiers_.size(); ++i) {
      family.metric.push_back(HistogramOf(readings[i].life.*figure.read));
      family.metric.back().label = {{"tier", tiers_[i].tier}};
    }
    families->push_back(std::move(family));
  }
  const auto append_removed = [&](const char* name, const char* help, auto LifeFigures::*counts) {
    for (size_t i = 0; i < tiers_.size(); ++i) {
      for (const RemovalCause& cause : kRemovalCauses) {
        const uint64_t count = (readings[i].life.*counts)[static_cast<size_t>(cause.why)];
        Append(Family(MetricType::Counter, name, help, count, {{"tier", tiers_[i].tier}, {"cause", cause.name}}),
               families);
      }
    }
  };
  append_removed("kvist_removed_blocks_total",
                 "Blocks that left the tier: evicted for room, erased by request, dropped as damaged, expired.",
                 &LifeFigures::removed_blocks);
  append_removed("kvist_removed_bytes_total", "Encoded bytes of those.", &LifeFigures::removed_bytes);
}

std::string Metrics::Expose() const {
  std::vector<MetricFamily> families = registry_->Collect();
  AppendTiers(&families);
  if (read_tenants_) tenants_.Append(read_tenants_(), &families);
  for (const Figure& figure : figures_) {
    std::vector<prometheus::ClientMetric::Label> labels;
    for (const auto& [name, value] : figure.labels) labels.push_back({name, value});
    const MetricType type = figure.kind == Kind::kCounter ? MetricType::Counter : MetricType::Gauge;
    Append(Family(type, figure.name, figure.help, figure.read(), std::move(labels)), &families);
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace kvist
