// Prometheus text format 0.0.4, as far as `kvist top` needs it: sums over the series of one name.
//
// Threads pure functions. What is no sample line is passed over: a reader of figures is no judge of them.
#ifndef KVIST_SERVICES_CTL_METRICS_TEXT_H_
#define KVIST_SERVICES_CTL_METRICS_TEXT_H_

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvist {

class MetricsText {
 public:
  // A label and its value, as `name="value"`.
  using Label = std::pair<std::string_view, std::string_view>;

  MetricsText() = default;
  explicit MetricsText(std::string_view exposition);

  bool Has(std::string_view name) const { return series_.find(name) != series_.end(); }
  // Of all series of this name that have all these labels; 0 if there is none.
  double Sum(std::string_view name, const std::vector<Label>& labels = {}) const;
  // The value of `label` in the one series of this name and value 1; "" if none is. For states.
  std::string Which(std::string_view name, std::string_view label) const;
  // The bounds and cumulative counts of a histogram, in the order of the bounds, summed over the series with these
  // labels. The last bound is infinite.
  std::vector<std::pair<double, double>> Buckets(std::string_view name, const std::vector<Label>& labels) const;

 private:
  struct Series {
    std::string labels;  // ,name="value",name="value",
    double value = 0;
  };
  std::map<std::string, std::vector<Series>, std::less<>> series_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_METRICS_TEXT_H_
