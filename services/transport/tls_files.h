// The PEM files of a TLS identity, read whole and checked before anybody uses them.
//
// Errors  InvalidArgument, as tls.h says.
#ifndef KVIST_SERVICES_TRANSPORT_TLS_FILES_H_
#define KVIST_SERVICES_TRANSPORT_TLS_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/transport/tls.h"

namespace kvist {

struct TlsFiles {
  std::string identity;  // PEM of the key and of the certificate with its chain
  std::string ca;        // PEM
  absl::Time expiry;

  bool operator==(const TlsFiles&) const = default;
};

absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsOptions& options, absl::Time now);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_TLS_FILES_H_
