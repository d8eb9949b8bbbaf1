#include "services/cluster/etcd_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "etcd/rpc.grpc.pb.h"
#include "services/cluster/etcd_wire.h"
#include "services/transport/grpc_library.h"

namespace kvist {
namespace {

namespace pb = ::etcdserverpb;

constexpr int kKeepaliveMs = 10'000;  // etcd closes connections that ping more often than every 5 s
constexpr int kKeepaliveTimeoutMs = 3'000;

// The least key that is greater than all keys with this prefix.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');
  ++prefix.back();
  return prefix;
}

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool OfConnection(grpc::StatusCode code) {
  return code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::DEADLINE_EXCEEDED;
}

class GrpcEtcdClient final : public EtcdClient {
 public:
  GrpcEtcdClient(const EtcdOptions& options, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : options_(options) {
    KeepGrpcAlive();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2'000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    for (const std::string& endpoint : options.endpoints) {
      channels_.push_back(grpc::CreateCustomChannel(endpoint, credentials, arguments));
    }
  }
  ~GrpcEtcdClient() override { Cancel(); }

  absl::StatusOr<EtcdListing> List(const std::string& prefix) override {
    pb::RangeRequest request;
    request.set_key(prefix);
    request.set_range_end(PrefixEnd(prefix));
    pb::RangeResponse response;
    const absl::Status status = Call<pb::KV>(&pb::KV::Stub::Range, request, &response);
    if (!status.ok()) return status;
    return FromWire(response);
  }

  absl::StatusOr<bool> PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
                             int64_t lease) override {
    pb::TxnRequest request;
    pb::Compare* compare = request.add_compare();
    compare->set_key(key);
    compare->set_result(pb::Compare::EQUAL);
    switch (condition.kind) {
      case EtcdCondition::Kind::kAbsent:
        compare->set_target(pb::Compare::CREATE);
        compare->set_create_revision(0);
        break;
      case EtcdCondition::Kind::kModRevision:
        compare->set_target(pb::Compare::MOD);
        compare->set_mod_revision(condition.value);
        break;
      case EtcdCondition::Kind::kLease:
        compare->set_target(pb::Compare::LEASE);
        compare->set_lease(condition.value);
        break;
    }
    pb::PutRequest* put = request.add_success()->mutable_request_put();
    put->set_key(key);
    put->set_value(value);
    put->set_lease(lease);
    pb::TxnResponse response;
    const absl::Status status = Call<pb::KV>(&pb::KV::Stub::Txn, request, &response);
    if (!status.ok()) return status;
    return response.succeeded();
  }

  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) override {
    pb::LeaseGrantRequest request;
    request.set_ttl(std::max<int64_t>(1, absl::ToInt64Seconds(absl::Ceil(ttl, absl::Seconds(1)))));
    pb::LeaseGrantResponse response;
    const absl::Status status = Call<pb::Lease>(&pb::Lease::Stub::LeaseGrant, request, &response);
    if (!status.ok()) return status;
    if (!response.error().empty() || response.id() == 0) {
      return absl::UnavailableError(absl::StrCat("etcd granted no lease: ", response.error()));
    }
    return response.id();
  }

  // One exchange on a stream of its own: three a lease, so the cost of opening it is of no account.
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease) override {
    pb::LeaseKeepAliveRequest request;
    request.set_id(lease);
    absl::Duration left;
    const absl::Status status = WithChannel([&](grpc::ClientContext* context, auto channel) {
      const auto stub = pb::Lease::NewStub(channel);
      const auto stream = stub->LeaseKeepAlive(context);
      pb::LeaseKeepAliveResponse response;
      stream->Write(request);
      stream->WritesDone();
      const bool answered = stream->Read(&response);
      context->TryCancel();
      const grpc::Status ended = stream->Finish();
      if (!answered) {
        return ended.ok() || ended.error_code() == grpc::StatusCode::CANCELLED
                   ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "no answer to a keep-alive")
                   : ended;
      }
      left = absl::Seconds(std::max<int64_t>(0, response.ttl()));
      return grpc::Status::OK;
    });
    if (!status.ok()) return status;
    return left;
  }

  absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) override {
    pb::LeaseTimeToLiveRequest request;
    request.set_id(lease);
    pb::LeaseTimeToLiveResponse response;
    const absl::Status status = Call<pb::Lease>(&pb::Lease::Stub::LeaseTimeToLive, request, &response);
    if (!status.ok()) return status;
    return absl::Seconds(std::max<int64_t>(0, response.ttl()));
  }

  absl::Status Revoke(int64_t lease) override {
    pb::LeaseRevokeRequest request;
    request.set_id(lease);
    pb::LeaseRevokeResponse response;
    return Call<pb::Lease>(&pb::Lease::Stub::LeaseRevoke, request, &response);
  }

  absl::Status Watch(const std::string& prefix, int64_t revision,
                     const std::function<bool(const EtcdChange&)>& sink) override {
    pb::WatchRequest request;
    pb::WatchCreateRequest* create = request.mutable_create_request();
    create->set_key(prefix);
    create->set_range_end(PrefixEnd(prefix));
    create->set_start_revision(revision);
    create->set_progress_notify(true);
    bool ended_by_us = false;
    const absl::Status status = WithChannel(
        [&](grpc::ClientContext* context, auto channel) {
          const auto stub = pb::Watch::NewStub(channel);
          const auto stream = stub->Watch(context);
          stream->Write(request);
          for (pb::WatchResponse response; stream->Read(&response);) {
            const EtcdChange change = FromWire(response);
            if (!sink(change) || change.compacted) {
              ended_by_us = true;
              context->TryCancel();
              break;
            }
          }
          return stream->Finish();
        },
        absl::InfiniteDuration());
    return ended_by_us ? absl::OkStatus() : status;
  }

  void Cancel() override {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : under_way_) context->TryCancel();
  }

 private:
  template <typename Service, typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response) {
    return WithChannel([&](grpc::ClientContext* context, auto channel) {
      const auto stub = Service::NewStub(channel);
      return (stub.get()->*method)(context, request, response);
    });
  }

  // Runs `act` with the current endpoint's channel, logged in; once more after a new login if the token was refused.
  template <typename Act>
  absl::Status WithChannel(Act act, absl::Duration deadline) {
    for (int attempt = 0;; ++attempt) {
      const size_t endpoint = endpoint_.load() % channels_.size();
      absl::Status login = LogIn(endpoint, attempt > 0);
      if (!login.ok()) return login;
      grpc::ClientContext context;
      if (deadline != absl::InfiniteDuration()) {
        // A call that failed at once would leave nobody to drive the connection's handshake until the next call.
        context.set_wait_for_ready(true);
        context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
      }
      if (std::string token = Token(); !token.empty()) context.AddMetadata("token", token);
      if (!Begin(&context)) return absl::CancelledError("the conversation with etcd has ended");
      const grpc::Status status = act(&context, channels_[endpoint]);
      End(&context);
      if (status.ok()) return absl::OkStatus();
      const bool refused = status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
                           status.error_message().find("invalid auth token") != std::string::npos;
      if (refused && attempt == 0 && !options_.user.empty()) continue;
      return Failed(endpoint, status);
    }
  }
  template <typename Act>
  absl::Status WithChannel(Act act) {
    return WithChannel(act, options_.call_deadline);
  }

  absl::Status Failed(size_t endpoint, const grpc::Status& status) {
    if (OfConnection(status.error_code())) {
      size_t expected = endpoint;
      endpoint_.compare_exchange_strong(expected, (endpoint + 1) % channels_.size());
    }
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat("etcd at ", options_.endpoints[endpoint], ": ", status.error_message()));
  }

  absl::Status LogIn(size_t endpoint, bool anew) {
    if (options_.user.empty() || (!anew && !Token().empty())) return absl::OkStatus();
    pb::AuthenticateRequest request;
    request.set_name(options_.user);
    request.set_password(options_.password);
    pb::AuthenticateResponse response;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(absl::ToChronoTime(absl::Now() + options_.call_deadline));
    if (!Begin(&context)) return absl::CancelledError("the conversation with etcd has ended");
    const grpc::Status status = pb::Auth::NewStub(channels_[endpoint])->Authenticate(&context, request, &response);
    End(&context);
    if (!status.ok()) return Failed(endpoint, status);
    std::lock_guard lock(mutex_);
    token_ = response.token();
    return absl::OkStatus();
  }

  std::string Token() {
    std::lock_guard lock(mutex_);
    return token_;
  }
  bool Begin(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    if (!cancelled_) under_way_.insert(context);
    return !cancelled_;
  }
  void End(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    under_way_.erase(context);
  }

  const EtcdOptions options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;  // by endpoint; constant after construction
  std::atomic<size_t> endpoint_{0};
  std::mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  std::set<grpc::ClientContext*> under_way_ ABSL_GUARDED_BY(mutex_);
};

// Reads one PEM file; names it in `problems` if it cannot.
std::string ReadPem(const char* what, const std::string& path, std::vector<std::string>* problems) {
  if (path.empty()) return "";
  std::optional<std::string> text = ReadFile(path);
  if (text && text->find("-----BEGIN") != std::string::npos) return *text;
  problems->push_back(absl::StrCat(what, " ", path, text ? " holds no PEM" : " cannot be read"));
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<EtcdClient>> NewEtcdClient(const EtcdOptions& options) {
  std::vector<std::string> problems;
  if (options.endpoints.empty()) problems.push_back("no endpoints: give host:port of at least one member");
  for (const std::string& endpoint : options.endpoints) {
    const absl::StatusOr<Address> address = ParseAddress(endpoint);
    if (!address.ok()) problems.push_back(std::string(address.status().message()));
  }
  if (options.cluster.empty() || options.cluster.find('/') != std::string::npos) {
    problems.push_back(absl::StrCat("cluster name \"", options.cluster, "\" is empty or holds a slash"));
  }
  if (options.lease < absl::Seconds(1)) problems.push_back("lease is less than 1s");
  if (options.call_deadline <= absl::ZeroDuration()) problems.push_back("call_deadline is not positive");
  if (options.user.empty() != options.password.empty()) problems.push_back("give both user and password, or none");
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = ReadPem("CA file", options.ca_file, &problems);
  tls.pem_cert_chain = ReadPem("certificate file", options.cert_file, &problems);
  tls.pem_private_key = ReadPem("key file", options.key_file, &problems);
  if (options.cert_file.empty() != options.key_file.empty()) {
    problems.push_back("give both certificate and key file, or none");
  }
  if (options.ca_file.empty() && !options.cert_file.empty()) problems.push_back("a certificate needs a CA file, too");
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrCat("etcd: ", absl::StrJoin(problems, "; ")));
  return std::unique_ptr<EtcdClient>(std::make_unique<GrpcEtcdClient>(
      options, options.ca_file.empty() ? grpc::InsecureChannelCredentials() : grpc::SslCredentials(tls)));
}

}  // namespace kvist
