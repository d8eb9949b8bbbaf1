#include "services/ctl/metrics_address.h"

#include <fstream>

#include "services/cluster/static_file.h"

namespace kvist {

absl::StatusOr<Address> MetricsAddress(const Node& node, const std::string& cluster_file) {
  Address address = node.http;
  if (address.port == 0 && !cluster_file.empty()) {
    std::ifstream file(HttpAddressFile(cluster_file, node.id));
    std::string text;
    if (std::getline(file, text)) address = ParseAddress(text).value_or(Address{});
  }
  if (address.port == 0) {
    return absl::NotFoundError(
        cluster_file.empty() ? "the address of its /metrics is not known: its record does not name it"
                             : "the address of its /metrics is not known: neither its record nor a file beside the "
                               "cluster file names it");
  }
  if (address.host == "0.0.0.0" || address.host == "[::]") address.host = node.address.host;
  if (address.host.size() > 2 && address.host.front() == '[') {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  return address;
}

}  // namespace kvist
