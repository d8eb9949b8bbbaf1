#include "services/ctl/top_frame.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cluster/byte_size.h"
#include "services/ctl/report.h"

namespace kvist {
namespace {

constexpr int kBarWidth = 16;

// What is shown of a node, or of all together.
struct Figures {
  double blocks = 0, capacity = 0, used = 0, pinned = 0, logical = 0;
  double asked_tokens = 0, hit_tokens = 0, saved_tokens = 0, gets = 0, sent = 0, received = 0, evicted = 0;  // between
  double in_flight = 0;

  void Add(const Figures& other) {
    for (double Figures::*field :
         {&Figures::blocks, &Figures::capacity, &Figures::used, &Figures::pinned, &Figures::logical,
          &Figures::asked_tokens, &Figures::hit_tokens, &Figures::saved_tokens, &Figures::gets, &Figures::sent,
          &Figures::received, &Figures::evicted, &Figures::in_flight}) {
      this->*field += other.*field;
    }
  }
};

Figures FiguresOf(const MetricsText& before, const MetricsText& after) {
  using Labels = std::vector<MetricsText::Label>;
  // A counter that went down belongs to a process that has started since: all of it is new.
  const auto grown = [&](std::string_view name, const Labels& labels = {}) {
    const double was = before.Sum(name, labels), is = after.Sum(name, labels);
    return is >= was ? is - was : is;
  };
  Figures figures;
  figures.blocks = after.Sum("kvist_blocks");
  figures.capacity = after.Sum("kvist_capacity_bytes");
  figures.used = after.Sum("kvist_used_bytes");
  figures.pinned = after.Sum("kvist_pinned_bytes");
  figures.logical = after.Sum("kvist_logical_bytes");
  figures.asked_tokens = grown("kvist_lookup_tokens_total", {{"op", "match"}});
  figures.hit_tokens = grown("kvist_hit_tokens_total", {{"op", "match"}});
  figures.saved_tokens = grown("kvist_saved_tokens_total");
  figures.gets = grown("kvist_rpcs_total", {{"method", "get"}});
  figures.sent = grown("kvist_sent_bytes_total");
  figures.received = grown("kvist_received_bytes_total");
  figures.evicted = grown("kvist_removed_bytes_total", {{"cause", "evicted"}});
  figures.in_flight = after.Sum("kvist_gets_in_flight");
  return figures;
}

std::string Percent(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.1f %%", 100 * part / whole) : "-";
}
std::string Rate(double bytes, double seconds) {
  return absl::StrCat(FormatByteSize(static_cast<uint64_t>(std::max(0.0, bytes) / seconds)), "/s");
}
std::string Milliseconds(double seconds) { return seconds < 0 ? "-" : absl::StrFormat("%.1f ms", 1e3 * seconds); }

std::vector<std::string> Row(const std::string& name, const std::string& state, const Figures& f, double seconds,
                             double p99) {
  return {name,
          state,
          absl::StrFormat("%.0f", f.blocks),
          absl::StrCat(Bar(f.used, f.capacity, kBarWidth), " ", Percent(f.used, f.capacity)),
          FormatByteSize(static_cast<uint64_t>(f.capacity)),
          Percent(f.pinned, f.capacity),
          Percent(f.used, f.logical),
          Percent(f.hit_tokens, f.asked_tokens),
          absl::StrFormat("%.0f", f.saved_tokens / seconds),
          absl::StrFormat("%.1f", f.gets / seconds),
          Milliseconds(p99),
          Rate(f.sent, seconds),
          Rate(f.received, seconds),
          Rate(f.evicted, seconds)};
}

}  // namespace

std::string Bar(double part, double whole, int width) {
  const double ratio = whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 0;
  const int full = static_cast<int>(std::lround(ratio * width));
  return absl::StrCat("[", std::string(full, '#'), std::string(width - full, '-'), "]");
}

double QuantileBetween(const std::vector<std::pair<double, double>>& before,
                       const std::vector<std::pair<double, double>>& after, double q) {
  const auto was = [&](size_t i) { return before.size() == after.size() ? before[i].second : 0; };
  if (after.empty()) return -1;
  const double all = after.back().second - was(after.size() - 1);
  if (all <= 0) return -1;
  for (size_t i = 0; i < after.size(); ++i) {
    if (after[i].second - was(i) < q * all) continue;
    return std::isinf(after[i].first) && i > 0 ? after[i - 1].first : after[i].first;
  }
  return -1;
}

std::string TopFrame(const Look& before, const Look& after) {
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(after.when - before.when));
  std::vector<std::vector<std::string>> rows = {{"node", "state", "blocks", "memory", "of", "pinned", "stored form",
                                                 "hit tokens", "saved/s", "gets/s", "get p99 <=", "out", "in",
                                                 "evicted"}};
  Figures all;
  int answering = 0;
  std::vector<std::string> problems;
  for (const NodeLook& node : after.nodes) {
    if (!node.problem.empty()) {
      problems.push_back(absl::StrCat(node.node, ": ", node.problem));
      continue;
    }
    const auto earlier = std::find_if(before.nodes.begin(), before.nodes.end(), [&](const NodeLook& other) {
      return other.node == node.node && other.problem.empty();
    });
    const MetricsText& since = earlier == before.nodes.end() ? node.metrics : earlier->metrics;
    const Figures figures = FiguresOf(since, node.metrics);
    const std::vector<MetricsText::Label> gets = {{"method", "get"}};
    const double p99 = QuantileBetween(since.Buckets("kvist_rpc_seconds", gets),
                                       node.metrics.Buckets("kvist_rpc_seconds", gets), 0.99);
    rows.push_back(Row(node.node, node.metrics.Which("kvist_state", "state"), figures, seconds, p99));
    all.Add(figures);
    ++answering;
  }
  if (answering > 1) rows.push_back(Row("all", "", all, seconds, -1));
  std::ostringstream out;
  out << "kvist top   view " << after.view << "   " << answering << " of " << after.nodes.size()
      << " nodes answer   over " << absl::StrFormat("%.1f s", seconds) << "\n\n";
  PrintTable(rows, out);
  for (const std::string& problem : problems) out << problem << "\n";
  return out.str();
}

}  // namespace kvist
