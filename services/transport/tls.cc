#include "services/transport/tls.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "services/runtime/runtime.h"
#include "services/runtime/timer.h"
#include "services/transport/grpc_library.h"
#include "services/transport/memory_file.h"
#include "services/transport/tls_files.h"

namespace kvist {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kWatchSeconds = 1;  // of gRPC's watcher, over files in memory: its least

class FileIdentity final : public TlsIdentity {
 public:
  FileIdentity(TlsOptions options, std::function<void(const absl::Status&)> on_reload)
      : options_(std::move(options)), on_reload_(std::move(on_reload)) {}

  absl::Status Start() {
    KeepGrpcAlive();
    absl::StatusOr<TlsFiles> files = ReadTlsFiles(options_, absl::Now());
    if (!files.ok()) return files.status();
    if (absl::Status status = PutInForce(*std::move(files)); !status.ok()) return status;
    provider_ = options_.ca_alone() ? std::make_shared<FileWatcherCertificateProvider>(ca_.path(), kWatchSeconds)
                                    : std::make_shared<FileWatcherCertificateProvider>(
                                          identity_.path(), identity_.path(), ca_.path(), kWatchSeconds);
    timer_ = std::make_unique<Timer>(RealRuntime(), options_.refresh, [this] { Refresh(); });
    return absl::OkStatus();
  }

  std::shared_ptr<grpc::ServerCredentials> ForServer(ClientCertificates certificates) const override {
    grpc::experimental::TlsServerCredentialsOptions tls(provider_);
    tls.watch_root_certs();
    tls.watch_identity_key_cert_pairs();
    tls.set_cert_request_type(certificates == ClientCertificates::kRequired
                                  ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                  : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
    return grpc::experimental::TlsServerCredentials(tls);
  }

  std::shared_ptr<grpc::Channel> Connect(const std::string& address, grpc::ChannelArguments arguments) const override {
    grpc::experimental::TlsChannelCredentialsOptions tls;
    tls.set_certificate_provider(provider_);
    tls.watch_root_certs();
    if (!options_.ca_alone()) tls.watch_identity_key_cert_pairs();
    if (!options_.server_name.empty()) arguments.SetSslTargetNameOverride(options_.server_name);
    return grpc::CreateCustomChannel(address, grpc::experimental::TlsCredentials(tls), arguments);
  }

  TlsFigures figures() const override {
    std::lock_guard lock(mutex_);
    return figures_;
  }

 private:
  void Refresh() {
    absl::StatusOr<TlsFiles> files = ReadTlsFiles(options_, absl::Now());
    absl::Status result = files.status();
    const bool other = files.ok() && *files != in_force_;
    if (other) result = PutInForce(*std::move(files));
    {
      std::lock_guard lock(mutex_);
      if (!other && result == figures_.last) return;  // nothing new
      figures_.last = result;
      if (!result.ok()) {
        ++figures_.failed_reloads;
      } else if (other) {
        ++figures_.reloads;
      }
    }
    if (on_reload_) on_reload_(result);
  }

  absl::Status PutInForce(TlsFiles files) {
    if (absl::Status status = ca_.Replace(files.ca); !status.ok()) return status;
    // Without one, the file is not even made: its place may be an earlier identity's, which must not be found empty.
    if (!files.identity.empty()) {
      if (absl::Status status = identity_.Replace(files.identity); !status.ok()) return status;
    }
    in_force_ = std::move(files);
    std::lock_guard lock(mutex_);
    figures_.expiry = in_force_.expiry;
    return absl::OkStatus();
  }

  const TlsOptions options_;
  const std::function<void(const absl::Status&)> on_reload_;
  MemoryFile identity_, ca_;
  std::shared_ptr<FileWatcherCertificateProvider> provider_;  // constant after Start
  TlsFiles in_force_;                                         // of Start, then of the thread alone
  mutable std::mutex mutex_;                                  // protects what follows
  TlsFigures figures_;
  std::unique_ptr<Timer> timer_;  // last: it uses all of the above
};

}  // namespace

absl::Status CheckAllOrNone(const TlsOptions& options) {
  const bool all = !options.cert_file.empty() && !options.key_file.empty() && !options.ca_file.empty();
  if (all || !options.any()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "TLS needs a certificate, its key and a CA; missing:", options.cert_file.empty() ? " certificate" : "",
      options.key_file.empty() ? " key" : "", options.ca_file.empty() ? " CA" : ""));
}

absl::StatusOr<std::shared_ptr<TlsIdentity>> TlsIdentity::Load(const TlsOptions& options,
                                                               std::function<void(const absl::Status&)> on_reload) {
  if (options.refresh <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("the refresh of the TLS files has to be longer than 0s");
  }
  auto identity = std::make_shared<FileIdentity>(options, std::move(on_reload));
  if (absl::Status status = identity->Start(); !status.ok()) return status;
  return identity;
}

std::shared_ptr<grpc::Channel> ConnectGrpc(const std::string& address, const grpc::ChannelArguments& arguments,
                                           const TlsIdentity* tls) {
  if (tls != nullptr) return tls->Connect(address, arguments);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

absl::Status WithTlsHint(absl::Status status, bool tls) {
  if (!absl::IsUnavailable(status) || absl::StrContains(status.message(), "Connection refused")) return status;
  // What gRPC says of a connection that did not come about, or ended; a node's own words have none of these.
  constexpr absl::string_view kLost[] = {"failed to connect", "andshake", "Socket closed", "reset by peer",
                                         "Broken pipe"};
  const bool lost = std::any_of(std::begin(kLost), std::end(kLost),
                                [&](absl::string_view words) { return absl::StrContains(status.message(), words); });
  if (!lost) return status;
  return absl::UnavailableError(absl::StrCat(
      status.message(), tls ? " (over TLS: the node may not trust this certificate's CA, or serve in plaintext)"
                            : " (in plaintext: the node may want TLS)"));
}

}  // namespace kvist
