#include "services/node/namespace_figures.h"

#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include "absl/strings/escaping.h"

namespace kvist {
namespace {

constexpr size_t kShownHex = 12;

prometheus::Family<prometheus::Counter>* FamilyNamed(prometheus::Registry* registry, const char* name,
                                                     const char* help) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}

}  // namespace

NamespaceFigures::NamespaceFigures(prometheus::Registry* registry)
    : hit_(FamilyNamed(registry, "kvist_namespace_hit_blocks_total", "Blocks that Get sent, by namespace.")),
      missed_(FamilyNamed(registry, "kvist_namespace_missed_blocks_total",
                          "Blocks that Get did not find, by the namespace that it asked for.")),
      stored_(FamilyNamed(registry, "kvist_namespace_stored_blocks_total",
                          "Blocks stored, copies of other nodes included, by namespace.")),
      other_(Add("other")) {}

NamespaceFigures::Counters NamespaceFigures::Add(const std::string& label) {
  const prometheus::Labels labels = {{"kv_namespace", label}};
  return {&hit_->Add(labels), &missed_->Add(labels), &stored_->Add(labels)};
}

NamespaceFigures::Counters NamespaceFigures::Of(std::string_view digest) {
  std::lock_guard lock(mutex_);
  const auto found = named_.find(absl::string_view(digest.data(), digest.size()));
  return found == named_.end() ? other_ : found->second;
}

void NamespaceFigures::CountHit(std::string_view digest) { Of(digest).hit->Increment(); }
void NamespaceFigures::CountMiss(std::string_view digest) { Of(digest).missed->Increment(); }

void NamespaceFigures::CountStored(std::string_view digest) {
  Counters counters = other_;
  {
    std::lock_guard lock(mutex_);
    const std::string key(digest);
    auto found = named_.find(key);
    if (found == named_.end() && named_.size() < kNamed && !digest.empty()) {
      found = named_.emplace(key, Add(absl::BytesToHexString(key).substr(0, kShownHex))).first;
    }
    if (found != named_.end()) counters = found->second;
  }
  counters.stored->Increment();
}

}  // namespace kvist
