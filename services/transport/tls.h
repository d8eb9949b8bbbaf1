// Mutual TLS on gRPC: one certificate, with which a process proves itself both to those who call it and to those whom
// it calls, and a CA that every peer's certificate has to come from. Reloaded from its files while calls go on.
//
// Units   refresh is a duration; expiry a point in time of the system's clock, as certificates have it.
// Threads TlsIdentity may be used by any number of threads; one of its own reads the files.
// Errors  InvalidArgument says which file is wrong and what to change: it cannot be read, is no PEM, the key does not
//         belong to the certificate, others can read the key, the certificate has expired or may not be used so.
//
// Why not gRPC's watcher of files alone: it takes any pair that it can read, so one bad rotation ends every handshake
// from then on. Here a set of files is put in force whole, and only after it was found good.
#ifndef KVIST_SERVICES_TRANSPORT_TLS_H_
#define KVIST_SERVICES_TRANSPORT_TLS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace grpc {
class Channel;
class ChannelArguments;
class ServerCredentials;
}  // namespace grpc

namespace kvist {

struct TlsOptions {
  std::string cert_file;    // PEM: the certificate, then those between it and its CA
  std::string key_file;     // PEM: its key, not encrypted. Only its owner may read it; a group too if root owns it
  std::string ca_file;      // PEM: the CAs that peers' certificates may come from
  std::string server_name;  // that a node's certificate has to name; "" = the host of the address that is called
  absl::Duration refresh = absl::Seconds(10);  // how often the files are looked at

  // Only a CA: nodes are known, and the caller is known by a token. Not for a port.
  bool ca_alone() const { return cert_file.empty() && key_file.empty() && !ca_file.empty(); }
  bool any() const { return !cert_file.empty() || !key_file.empty() || !ca_file.empty(); }
};

// OK if all three files are named, or none; else a sentence that names `cert`, `key` and `ca`, the settings' names.
absl::Status CheckAllOrNone(const TlsOptions& options);

struct TlsFigures {
  absl::Time expiry;            // of the certificate in force
  uint64_t reloads = 0;         // sets of files put in force after the first
  uint64_t failed_reloads = 0;  // sets that were found bad
  absl::Status last;            // why the files' last set is not in force; OK if it is
};

// One that is shown has to be good, whether it is required or not.
enum class ClientCertificates { kRequired, kOptional };

class TlsIdentity {
 public:
  // Reads the files now; whatever is wrong with them is an error. Later sets that are bad leave the last good one in
  // force. `on_reload` is called from the thread that reads, once for each new set: OK, or what is wrong with it.
  static absl::StatusOr<std::shared_ptr<TlsIdentity>> Load(
      const TlsOptions& options, std::function<void(const absl::Status&)> on_reload = nullptr);
  virtual ~TlsIdentity() = default;

  // For a port whose callers have to show a certificate, or may. The identity outlives the server.
  // REQUIRES: a certificate of its own.
  virtual std::shared_ptr<grpc::ServerCredentials> ForServer(
      ClientCertificates certificates = ClientCertificates::kRequired) const = 0;
  // To a node, whose certificate has to name `address`'s host (or server_name). The identity outlives the channel.
  virtual std::shared_ptr<grpc::Channel> Connect(const std::string& address,
                                                 grpc::ChannelArguments arguments) const = 0;
  virtual TlsFigures figures() const = 0;
};

// `address` over TLS, or in plaintext if `tls` is null.
std::shared_ptr<grpc::Channel> ConnectGrpc(const std::string& address, const grpc::ChannelArguments& arguments,
                                           const TlsIdentity* tls);

// `status` with a word on TLS if it may be the reason: gRPC tells a refused handshake only as a closed connection.
absl::Status WithTlsHint(absl::Status status, bool tls);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_TLS_H_
