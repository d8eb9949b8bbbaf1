#include "services/ctl/metrics_text.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace kvist {
namespace {

bool HasAll(const std::string& labels, const std::vector<MetricsText::Label>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const MetricsText::Label& label) {
    return labels.find(absl::StrCat(",", absl::string_view(label.first.data(), label.first.size()), "=\"",
                                    absl::string_view(label.second.data(), label.second.size()), "\",")) !=
           std::string::npos;
  });
}

std::string ValueOf(const std::string& labels, std::string_view name) {
  const std::string begin = absl::StrCat(",", absl::string_view(name.data(), name.size()), "=\"");
  const size_t at = labels.find(begin);
  if (at == std::string::npos) return "";
  const size_t first = at + begin.size();
  return labels.substr(first, labels.find("\",", first) - first);
}

}  // namespace

MetricsText::MetricsText(std::string_view exposition) {
  for (absl::string_view line : absl::StrSplit(absl::string_view(exposition.data(), exposition.size()), '\n')) {
    const size_t space = line.rfind(' ');
    if (line.empty() || line.front() == '#' || space == absl::string_view::npos) continue;
    double value = 0;
    if (!absl::SimpleAtod(line.substr(space + 1), &value)) continue;
    const absl::string_view head = line.substr(0, space);
    const size_t brace = head.find('{');
    std::string labels;
    if (brace != absl::string_view::npos && head.back() == '}') {
      labels = absl::StrCat(",", head.substr(brace + 1, head.size() - brace - 2), ",");
    }
    series_[std::string(head.substr(0, brace))].push_back({std::move(labels), value});
  }
}

double MetricsText::Sum(std::string_view name, const std::vector<Label>& labels) const {
  const auto found = series_.find(name);
  double sum = 0;
  if (found == series_.end()) return sum;
  for (const Series& series : found->second) {
    if (HasAll(series.labels, labels)) sum += series.value;
  }
  return sum;
}

std::string MetricsText::Which(std::string_view name, std::string_view label) const {
  const auto found = series_.find(name);
  if (found == series_.end()) return "";
  for (const Series& series : found->second) {
    if (series.value == 1) return ValueOf(series.labels, label);
  }
  return "";
}

std::vector<std::pair<double, double>> MetricsText::Buckets(std::string_view name,
                                                            const std::vector<Label>& labels) const {
  const auto found = series_.find(absl::StrCat(absl::string_view(name.data(), name.size()), "_bucket"));
  std::map<double, double> counts;
  if (found == series_.end()) return {};
  for (const Series& series : found->second) {
    double bound = 0;
    if (HasAll(series.labels, labels) && absl::SimpleAtod(ValueOf(series.labels, "le"), &bound)) {
      counts[bound] += series.value;
    }
  }
  return {counts.begin(), counts.end()};
}

}  // namespace kvist
