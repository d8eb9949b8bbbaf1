#include "services/access/access.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/runtime/runtime.h"
#include "services/runtime/timer.h"
#include "services/transport/secret_file.h"

namespace kvist {
namespace {

// `pattern` has a '*'.
bool Fits(const std::string& pattern, const std::string& name) {
  if (absl::StartsWith(pattern, "spiffe://")) {
    return absl::StartsWith(name, absl::string_view(pattern).substr(0, pattern.size() - 1));
  }
  const absl::string_view behind = absl::string_view(pattern).substr(sizeof("dns:*") - 1);  // ".x.example"
  if (!absl::StartsWith(name, "dns:") || !absl::EndsWith(name, behind)) return false;
  const absl::string_view label = absl::string_view(name).substr(4, name.size() - 4 - behind.size());
  return !label.empty() && !absl::StrContains(label, '.');
}

// One set of files, ready to be asked. Never changes.
struct InForce {
  AccessConfig config;
  TokenNames tokens;
  absl::flat_hash_map<std::string, const IdentityRule*> exact;
  std::vector<const IdentityRule*> patterns;
  absl::flat_hash_map<std::string, TenantId> ids;

  const IdentityRule* Find(const std::string& name) const {
    if (const auto found = exact.find(name); found != exact.end()) return found->second;
    const auto fits = std::find_if(patterns.begin(), patterns.end(),
                                   [&name](const IdentityRule* rule) { return Fits(rule->identity, name); });
    return fits == patterns.end() ? nullptr : *fits;
  }
};

class FileAccess final : public Access {
 public:
  FileAccess(AccessOptions options, std::function<void(const absl::Status&)> on_reload)
      : options_(std::move(options)),
        on_reload_(std::move(on_reload)),
        host_(std::make_shared<TenantQuotas>(TenantQuotas::kMostTenants)),
        device_(std::make_shared<TenantQuotas>(TenantQuotas::kMostTenants)) {}

  absl::Status Start() {
    if (absl::Status status = Read(); !status.ok()) return status;
    timer_ = std::make_unique<Timer>(RealRuntime(), options_.refresh, [this] { Refresh(); });
    return absl::OkStatus();
  }

  absl::Status Put(const AccessConfig& config, const TokenNames& tokens) {
    auto next = std::make_shared<InForce>();
    next->config = config;
    next->tokens = tokens;
    for (const IdentityRule& rule : next->config.identities) {
      if (absl::StrContains(rule.identity, '*')) {
        next->patterns.push_back(&rule);
      } else {
        next->exact.emplace(rule.identity, &rule);
      }
    }
    std::lock_guard lock(mutex_);
    if (absl::Status status = NumberTenants(*next); !status.ok()) return status;
    for (const auto& [name, limits] : next->config.tenants) next->ids.emplace(name, numbers_[name]);
    SetLimits(next->config);
    figures_.remark = TokensWithoutLine(config, tokens);
    in_force_ = std::move(next);
    return absl::OkStatus();
  }

  absl::StatusOr<Caller> Identify(const Credentials& credentials) const override {
    const std::shared_ptr<const InForce> now = in_force();
    std::vector<std::string> names = credentials.names;
    if (!credentials.token.empty()) {
      const auto token = now->tokens.find(HashToken(credentials.token));
      if (token == now->tokens.end()) {
        return absl::UnauthenticatedError("the token is not known (any more): ask the operator for another");
      }
      names = {absl::StrCat("token:", token->second)};
    }
    for (const std::string& name : names) {
      const IdentityRule* rule = now->Find(name);
      if (rule == nullptr) continue;
      Caller caller;
      caller.identity = name;
      caller.peer = credentials.peer;
      caller.role = rule->role;
      if (rule->tenant.empty()) return caller;
      caller.tenant_name = rule->tenant;
      caller.tenant = now->ids.at(rule->tenant);
      return caller;
    }
    if (names.empty()) {
      return absl::UnauthenticatedError(
          "this node wants to know who calls: show a token, or a certificate with a name");
    }
    return absl::UnauthenticatedError(
        absl::StrCat("the access file does not know '", absl::StrJoin(names, "', '"), "': add an identity there"));
  }

  absl::StatusOr<TenantId> TenantFor(const Caller& caller, const std::string& tenant) const override {
    if (tenant.empty() || tenant == caller.tenant_name) return caller.tenant;
    if (!ActsForTenants(caller)) {
      return absl::PermissionDeniedError(absl::StrCat("'", caller.identity, "' may not act for a tenant by name"));
    }
    const std::shared_ptr<const InForce> now = in_force();
    const auto found = now->ids.find(tenant);
    if (found != now->ids.end()) return found->second;
    return absl::InvalidArgumentError(
        absl::StrCat("the tenant '", tenant, "' is not in this node's access file: all nodes need the same"));
  }

  std::string NameOf(TenantId tenant) const override {
    std::lock_guard lock(mutex_);
    for (const auto& [name, id] : numbers_) {
      if (id == tenant) return name;
    }
    return "";
  }
  uint32_t MaxRequests(TenantId tenant) const override {
    return tenant < requests_.size() ? requests_[tenant].load(std::memory_order_relaxed) : 0;
  }
  std::vector<TenantInfo> tenants() const override {
    const std::shared_ptr<const InForce> now = in_force();
    std::vector<TenantInfo> tenants;
    for (const auto& [name, limits] : now->config.tenants) tenants.push_back({now->ids.at(name), name, limits});
    return tenants;
  }
  std::shared_ptr<const TenantQuotas> host_quotas() const override { return host_; }
  std::shared_ptr<const TenantQuotas> device_quotas() const override { return device_; }
  bool has_tokens() const override { return !options_.token_file.empty(); }
  AccessFigures figures() const override {
    std::lock_guard lock(mutex_);
    return figures_;
  }

 private:
  std::shared_ptr<const InForce> in_force() const {
    std::lock_guard lock(mutex_);
    return in_force_;
  }

  absl::Status NumberTenants(const InForce& next) {
    std::map<std::string, TenantId> numbers = numbers_;
    for (const auto& [name, limits] : next.config.tenants) numbers.emplace(name, numbers.size() + 1);
    if (numbers.size() >= TenantQuotas::kMostTenants) {
      return absl::InvalidArgumentError(absl::StrCat(numbers.size(), " tenants since this process started; it keeps ",
                                                     TenantQuotas::kMostTenants - 1,
                                                     " apart: name fewer, or restart it"));
    }
    numbers_ = std::move(numbers);
    return absl::OkStatus();
  }

  void SetLimits(const AccessConfig& config) {
    for (const auto& [name, id] : numbers_) {
      const auto found = config.tenants.find(name);
      const bool named = found != config.tenants.end();
      const TenantLimits limits = named ? found->second : TenantLimits();
      const uint32_t share = named ? limits.share : 0;
      host_->Set(id, limits.host_bytes, share);
      device_->Set(id, limits.device_bytes, share);
      requests_[id].store(limits.requests, std::memory_order_relaxed);
    }
  }

  // The files as they are now, put in force if they are other than before.
  absl::Status Read(bool* changed = nullptr) {
    absl::StatusOr<std::string> access_text = ReadWholeFile("access file", options_.access_file);
    if (!access_text.ok()) return access_text.status();
    absl::StatusOr<AccessConfig> config = ParseAccess(*access_text);
    if (!config.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the access file '", options_.access_file, "': ", config.status().message()));
    }
    TokenNames tokens;
    if (!options_.token_file.empty()) {
      absl::StatusOr<std::string> text = ReadPrivateFile("token file", options_.token_file);
      if (!text.ok()) return text.status();
      absl::StatusOr<TokenNames> parsed = ParseTokens(*text);
      if (!parsed.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("the token file '", options_.token_file, "': ", parsed.status().message()));
      }
      tokens = *std::move(parsed);
    }
    if (changed != nullptr) {
      const std::shared_ptr<const InForce> now = in_force();
      *changed = now->config != *config || now->tokens != tokens;
      if (!*changed) return absl::OkStatus();
    }
    return Put(*config, tokens);
  }

  void Refresh() {
    bool changed = false;
    const absl::Status result = Read(&changed);
    {
      std::lock_guard lock(mutex_);
      if (result == figures_.last && !(result.ok() && changed)) return;  // nothing new
      figures_.last = result;
      if (!result.ok()) {
        ++figures_.failed_reloads;
      } else if (changed) {
        ++figures_.reloads;
      }
    }
    if (on_reload_) on_reload_(result);
  }

  const AccessOptions options_;
  const std::function<void(const absl::Status&)> on_reload_;
  const std::shared_ptr<TenantQuotas> host_, device_;
  std::array<std::atomic<uint32_t>, TenantQuotas::kMostTenants> requests_{};
  mutable std::mutex mutex_;  // protects what follows
  std::map<std::string, TenantId> numbers_;
  std::shared_ptr<const InForce> in_force_;
  AccessFigures figures_;
  std::unique_ptr<Timer> timer_;  // last: it uses all of the above
};

}  // namespace

absl::StatusOr<std::shared_ptr<Access>> Access::Load(const AccessOptions& options,
                                                     std::function<void(const absl::Status&)> on_reload) {
  auto access = std::make_shared<FileAccess>(options, std::move(on_reload));
  if (absl::Status status = access->Start(); !status.ok()) return status;
  return access;
}

absl::StatusOr<std::shared_ptr<Access>> Access::Of(const AccessConfig& config, const TokenNames& tokens) {
  auto access = std::make_shared<FileAccess>(AccessOptions{}, nullptr);
  if (absl::Status status = access->Put(config, tokens); !status.ok()) return status;
  return access;
}

}  // namespace kvist
