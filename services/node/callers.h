// Tells who is behind a gRPC call: by the bearer token that it carries, or the names in its certificate.
//
// Threads any.
#ifndef KVIST_SERVICES_NODE_CALLERS_H_
#define KVIST_SERVICES_NODE_CALLERS_H_

#include <grpcpp/server_context.h>

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "services/access/access.h"
#include "services/access/caller.h"

namespace kvist {

class Callers {
 public:
  // Null: everybody may do everything. A certificate's name is told all the same, for the audit log.
  explicit Callers(std::shared_ptr<const Access> access) : access_(std::move(access)) {}

  // Errors: Unauthenticated, as of Access::Identify.
  absl::StatusOr<Caller> Of(const grpc::CallbackServerContext& context) const;

 private:
  const std::shared_ptr<const Access> access_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_CALLERS_H_
