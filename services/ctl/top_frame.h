// One frame of `kvist top`, made of two looks at the nodes' /metrics.
//
// Units   rates are over the time between the looks. Threads pure functions.
#ifndef KVIST_SERVICES_CTL_TOP_FRAME_H_
#define KVIST_SERVICES_CTL_TOP_FRAME_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/ctl/metrics_text.h"

namespace kvist {

struct NodeLook {
  std::string node;
  std::string problem;  // why there are no figures; "" = there are
  MetricsText metrics;
};

struct Look {
  absl::Time when;
  uint64_t view = 0;
  std::vector<NodeLook> nodes;
};

// "[#####---------]": the part of `whole`, in `width` places.
std::string Bar(double part, double whole, int width);

// The value below which a part `q` of what was counted between the looks lies; -1 if nothing was.
double QuantileBetween(const std::vector<std::pair<double, double>>& before,
                       const std::vector<std::pair<double, double>>& after, double q);

// Lines of text: the cluster, then a row for each node. A node that was not there in `before` has its rates since it
// started out of them.
std::string TopFrame(const Look& before, const Look& after);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_TOP_FRAME_H_
