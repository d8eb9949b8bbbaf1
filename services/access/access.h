// Who is let in, as the files say at this moment.
//
// Tenants are numbered from 1 as they first appear, and keep their number as long as the process lives: a tenant that
// was taken out keeps what it has until others need the room, with a share of 0, and finds it again if it comes back.
//
// Reload  both files are read again every `refresh`. A set that is wrong, or of more than kMostTenants tenants since the
//         start, is not put in force: the earlier one stays, and `figures` says why.
// Threads any; one of its own if files were given.
#ifndef KVIST_SERVICES_ACCESS_ACCESS_H_
#define KVIST_SERVICES_ACCESS_ACCESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cachestore/tenants.h"
#include "services/access/access_config.h"
#include "services/access/caller.h"

namespace kvist {

struct AccessOptions {
  std::string access_file;
  std::string token_file;  // "" = no tokens. Only its owner may read it; a group too if root owns it
  absl::Duration refresh = absl::Seconds(10);
};

// What a call shows of its caller.
struct Credentials {
  std::vector<std::string> names;  // of the certificate: "spiffe://...", then "dns:..."
  std::string token;               // "" = none
  std::string peer;
};

struct AccessFigures {
  uint64_t reloads = 0;         // sets of files put in force after the first
  uint64_t failed_reloads = 0;  // sets that were found wrong
  absl::Status last;            // why the files' last set is not in force; OK if it is
  std::string remark;           // what an operator may not have meant (TokensWithoutLine); "" = nothing
};

struct TenantInfo {
  TenantId id = 0;
  std::string name;
  TenantLimits limits;
};

class Access {
 public:
  // Errors: InvalidArgument  a file that cannot be read or is wrong; a token file that others can read.
  // `on_reload` is called from the thread that reads, once for each new set: OK, or what is wrong with it.
  static absl::StatusOr<std::shared_ptr<Access>> Load(const AccessOptions& options,
                                                      std::function<void(const absl::Status&)> on_reload = nullptr);
  static absl::StatusOr<std::shared_ptr<Access>> Of(const AccessConfig& config, const TokenNames& tokens = {});
  virtual ~Access() = default;

  // A token goes before a certificate.
  // Errors: Unauthenticated  nothing was shown, or nothing that the files know.
  virtual absl::StatusOr<Caller> Identify(const Credentials& credentials) const = 0;

  // Whose blocks a request concerns that names `tenant`; "" = its caller's own.
  // Errors: PermissionDenied  another's; InvalidArgument  a tenant that is not known.
  virtual absl::StatusOr<TenantId> TenantFor(const Caller& caller, const std::string& tenant) const = 0;
  virtual std::string NameOf(TenantId tenant) const = 0;  // "" of 0

  virtual uint32_t MaxRequests(TenantId tenant) const = 0;  // 0 = no bound
  virtual std::vector<TenantInfo> tenants() const = 0;      // that the files name now
  virtual std::shared_ptr<const TenantQuotas> host_quotas() const = 0;
  virtual std::shared_ptr<const TenantQuotas> device_quotas() const = 0;
  virtual bool has_tokens() const = 0;  // whoever shows one needs no certificate
  virtual AccessFigures figures() const = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_ACCESS_ACCESS_H_
