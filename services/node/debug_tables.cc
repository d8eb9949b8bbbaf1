#include "services/node/debug_tables.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "services/cluster/ring.h"

namespace kvist {
namespace {

std::string Percent(double part) { return absl::StrFormat("%.1f %%", 100 * part); }

std::string Part(double fraction, uint64_t capacity_bytes) {
  return absl::StrCat(static_cast<uint64_t>(fraction * static_cast<double>(capacity_bytes)));
}

}  // namespace

DebugTable MembersTable(const View* view, const NodeId& self) {
  DebugTable table{"No view", {"node", "data", "state", "weight", "ramp", "share of the keys", "capacity, bytes"}, {}};
  if (view == nullptr) return table;
  table.caption = absl::StrCat("View ", view->number.value);
  double all = 0;
  for (const Node& node : view->nodes) all += PlacementWeight(node);
  for (const Node& node : view->nodes) {
    table.rows.push_back({absl::StrCat(node.id.value, node.id == self ? " (this node)" : ""), node.address.ToString(),
                          std::string(NodeStateName(node.state)), absl::StrCat(node.weight), absl::StrCat(node.ramp),
                          Percent(all > 0 ? PlacementWeight(node) / all : 0), absl::StrCat(node.capacity_bytes)});
  }
  return table;
}

DebugTable NamespacesTable(const std::vector<Namespaces::Summary>& namespaces,
                           const std::function<std::string(TenantId)>& tenant_name) {
  DebugTable table{
      "Namespaces by blocks put here, since the start", {"digest", "tenant", "blocks", "what workers said of it"}, {}};
  for (const Namespaces::Summary& one : namespaces) {
    std::string said = one.fields == nullptr ? "nothing" : "";
    if (one.fields != nullptr) {
      for (const auto& [name, value] : *one.fields) {
        // The salt keeps tenants' keys apart by not being known.
        if (name.find("salt") == std::string::npos) absl::StrAppend(&said, name, "=", value, " ");
      }
    }
    table.rows.push_back({absl::BytesToHexString(one.digest).substr(0, 12), tenant_name ? tenant_name(one.tenant) : "",
                          absl::StrCat(one.blocks), said});
  }
  return table;
}

DebugTable TenantsTable(std::vector<TenantReading> tenants) {
  std::sort(tenants.begin(), tenants.end(), [](const TenantReading& a, const TenantReading& b) {
    return a.host_bytes + a.device_bytes > b.host_bytes + b.device_bytes;
  });
  DebugTable table{"Tenants by bytes held",
                   {"tenant", "host bytes", "at most", "device bytes", "at most", "share", "requests under way"},
                   {}};
  const auto bound = [](uint64_t bytes) { return bytes == TenantQuotas::kNoBound ? "" : absl::StrCat(bytes); };
  for (const TenantReading& tenant : tenants) {
    table.rows.push_back({tenant.name, absl::StrCat(tenant.host_bytes), bound(tenant.host_quota_bytes),
                          absl::StrCat(tenant.device_bytes), bound(tenant.device_quota_bytes),
                          absl::StrCat(tenant.share), absl::StrCat(tenant.requests)});
  }
  return table;
}

DebugTable ProfilesTable(const ProfileShelf& shelf) {
  const ProfileShelfFigures figures = shelf.figures();
  DebugTable table{absl::StrCat("Profiles kept, ", figures.bytes, " of at most ", figures.capacity_bytes, " bytes"),
                   {"digest", "tenant", "bytes"},
                   {}};
  for (const ProfileShelf::Entry& entry : shelf.entries()) {
    table.rows.push_back(
        {absl::BytesToHexString(entry.place.digest), entry.place.tenant, absl::StrCat(entry.size_bytes)});
  }
  return table;
}

DebugTable BoundsTable(const Limits& limits, const AdmissionLimits& admission, uint64_t capacity_bytes,
                       const Admission& now) {
  DebugTable table{"Bounds in force", {"what", "at most", "now"}, {}};
  table.rows = {
      {"Gets under way", absl::StrCat(admission.gets), absl::StrCat(now.gets())},
      {"bytes that those have still to send", absl::StrCat(admission.queued_bytes), absl::StrCat(now.queued_bytes())},
      {"bytes that those pin", Part(admission.pinned_fraction, capacity_bytes), absl::StrCat(now.pinned_bytes())},
      {"Puts under way", absl::StrCat(admission.puts), ""},
      {"bytes that those reserve", Part(admission.reserved_fraction, capacity_bytes),
       absl::StrCat(now.reserved_bytes())},
      {"Matches at one moment", absl::StrCat(admission.matches), ""},
      {"Explains and Describes at one moment", absl::StrCat(admission.explains), ""},
      {"silence of a reader", absl::FormatDuration(admission.read_stall), ""},
      {"silence of a writer", absl::FormatDuration(admission.write_stall), ""},
      {"least rate of a reader, bytes/s", absl::StrCat(admission.min_read_rate), ""},
      {"least rate of a writer, bytes/s", absl::StrCat(admission.min_write_rate), ""},
      {"bytes verified for reports, a second", absl::StrCat(admission.report_rate), ""},
      {"keys in a request", absl::StrCat(limits.max_keys), ""},
      {"bytes of a block", absl::StrCat(limits.max_block_bytes), ""},
      {"lease", absl::FormatDuration(limits.max_lease), ""},
      {"deadline of a stream", absl::FormatDuration(limits.max_stream), ""},
  };
  return table;
}

}  // namespace kvist
