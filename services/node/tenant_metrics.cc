#include "services/node/tenant_metrics.h"

#include <prometheus/metric_family.h>

#include <utility>

namespace kvist {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class FamilyOfTenants {
 public:
  FamilyOfTenants(MetricType type, const char* name, const char* help) : family_{name, help, type, {}} {}

  void Add(const TenantReading& tenant, uint64_t value, const char* label = nullptr,
           const char* label_value = nullptr) {
    ClientMetric metric;
    metric.label.push_back({"tenant", tenant.name});
    if (label != nullptr) metric.label.push_back({label, label_value});
    if (family_.type == MetricType::Counter) {
      metric.counter.value = static_cast<double>(value);
    } else {
      metric.gauge.value = static_cast<double>(value);
    }
    family_.metric.push_back(std::move(metric));
  }
  void MoveTo(std::vector<MetricFamily>* families) { families->push_back(std::move(family_)); }

 private:
  MetricFamily family_;
};

void AppendHeld(const std::vector<TenantReading>& tenants, std::vector<MetricFamily>* families) {
  FamilyOfTenants used(MetricType::Gauge, "kvist_tenant_used_bytes",
                       "Bytes that the tenant's blocks take in the tier, written and removed ones included.");
  FamilyOfTenants quota(MetricType::Gauge, "kvist_tenant_quota_bytes",
                        "Bytes that they may take there; not shown where there is no bound.");
  FamilyOfTenants share(MetricType::Gauge, "kvist_tenant_share",
                        "The tenant's part when a tier is full, against the others'.");
  FamilyOfTenants requests(MetricType::Gauge, "kvist_tenant_requests_in_flight", "Requests of the tenant under way.");
  for (const TenantReading& tenant : tenants) {
    used.Add(tenant, tenant.host_bytes, "tier", "host");
    used.Add(tenant, tenant.device_bytes, "tier", "device");
    if (tenant.host_quota_bytes != TenantQuotas::kNoBound) quota.Add(tenant, tenant.host_quota_bytes, "tier", "host");
    if (tenant.device_quota_bytes != TenantQuotas::kNoBound) {
      quota.Add(tenant, tenant.device_quota_bytes, "tier", "device");
    }
    share.Add(tenant, tenant.share);
    requests.Add(tenant, tenant.requests);
  }
  for (FamilyOfTenants* family : {&used, &quota, &share, &requests}) family->MoveTo(families);
}

}  // namespace

void TenantMetrics::Append(const std::vector<TenantReading>& tenants, std::vector<MetricFamily>* families) const {
  if (tenants.empty()) return;
  AppendHeld(tenants, families);
  const auto total = MetricType::Counter;
  FamilyOfTenants hits(total, "kvist_tenant_hit_blocks_total", "Blocks that the tenant asked for and were found.");
  FamilyOfTenants misses(total, "kvist_tenant_missed_blocks_total", "Blocks that it asked for and were not delivered.");
  FamilyOfTenants sent(total, "kvist_tenant_sent_bytes_total", "Block bytes sent to the tenant.");
  FamilyOfTenants stored(total, "kvist_tenant_stored_blocks_total",
                         "Blocks put for it, copies of other nodes included.");
  FamilyOfTenants stored_bytes(total, "kvist_tenant_stored_bytes_total", "Encoded bytes of those.");
  FamilyOfTenants refused(total, "kvist_tenant_refusals_total",
                          "Requests refused because the tenant was at a limit of its own: of requests, of room.");
  for (const TenantReading& tenant : tenants) {
    const Counts& counts = counts_[tenant.id];
    hits.Add(tenant, counts.matched, "op", "match");
    hits.Add(tenant, counts.hits, "op", "get");
    misses.Add(tenant, counts.unmatched, "op", "match");
    misses.Add(tenant, counts.misses, "op", "get");
    sent.Add(tenant, counts.sent_bytes);
    stored.Add(tenant, counts.stored);
    stored_bytes.Add(tenant, counts.stored_bytes);
    refused.Add(tenant, counts.refused_requests, "limit", "requests");
    refused.Add(tenant, counts.refused_room, "limit", "room");
  }
  for (FamilyOfTenants* family : {&hits, &misses, &sent, &stored, &stored_bytes, &refused}) family->MoveTo(families);
}

}  // namespace kvist
