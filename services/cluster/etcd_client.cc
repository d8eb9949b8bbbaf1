#include "services/cluster/etcd_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "etcd/rpc.grpc.pb.h"
#include "services/cluster/etcd_membership.h"
#include "services/cluster/etcd_wire.h"
#include "services/transport/grpc_library.h"

namespace kvist {
namespace {

namespace pb = ::etcdserverpb;

constexpr int kKeepaliveMs = 10'000;  // etcd closes connections that ping more often than every 5 s
constexpr int kKeepaliveTimeoutMs = 3'000;
constexpr int kMaxAnswerBytes = 16 << 20;  // 1,024 records of 400 bytes, and room for what others put there

// The least key that is greater than all keys with this prefix.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');
  ++prefix.back();
  return prefix;
}

bool Spoke(const grpc::Status& status) {  // etcd itself, not a connection or another server
  return status.ok() || absl::StartsWith(status.error_message(), "etcdserver:");
}

bool OfConnection(const grpc::Status& status) {
  return !Spoke(status) || status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
}

// The part of gRPC's sentence that says why.
std::string Cause(const grpc::Status& status, absl::Duration deadline) {
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && !Spoke(status)) {
    return absl::StrCat("no answer within ", absl::FormatDuration(deadline));
  }
  const std::string& message = status.error_message();
  if (message.empty()) return absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
  for (const std::string before : {"last error: UNKNOWN: ", "last error: "}) {
    if (const size_t at = message.find(before); at != message.npos) return message.substr(at + before.size());
  }
  return message;
}

// The members of etcd, of which one is asked.
class Endpoints {
 public:
  struct Current {
    size_t index;
    std::string name;
    std::shared_ptr<grpc::Channel> channel;
  };

  Endpoints(const EtcdOptions& options, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : credentials_(std::move(credentials)), call_deadline_(options.call_deadline) {
    for (const std::string& name : options.endpoints) endpoints_.push_back({name, Connect(name), ""});
  }

  Current current() {
    std::lock_guard lock(mutex_);
    return {current_, endpoints_[current_].name, endpoints_[current_].channel};
  }

  void Answered(const Current& at) {
    std::lock_guard lock(mutex_);
    endpoints_[at.index].failure.clear();
  }

  // What was said by all that did not answer lately. The next one is asked from here on, and this one over a new
  // channel: a call over a channel that waits to connect again would learn nothing, and one waiter less would drive it.
  std::string Failed(const Current& at, const grpc::Status& status) {
    std::lock_guard lock(mutex_);
    Endpoint& endpoint = endpoints_[at.index];
    endpoint.failure = Cause(status, call_deadline_);
    if (endpoint.channel == at.channel) endpoint.channel = Connect(endpoint.name);
    if (current_ == at.index) current_ = (current_ + 1) % endpoints_.size();
    std::vector<std::string> sentences;
    for (const Endpoint& each : endpoints_) {
      if (!each.failure.empty()) sentences.push_back(absl::StrCat(each.name, ": ", each.failure));
    }
    return absl::StrCat("no etcd answers: ", absl::StrJoin(sentences, "; "));
  }

 private:
  struct Endpoint {
    std::string name;
    std::shared_ptr<grpc::Channel> channel;
    std::string failure;  // "" = it answered last
  };

  std::shared_ptr<grpc::Channel> Connect(const std::string& name) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // or the new channel would share the old one's pauses
    arguments.SetMaxReceiveMessageSize(kMaxAnswerBytes);
    return grpc::CreateCustomChannel(name, credentials_, arguments);
  }

  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  const absl::Duration call_deadline_;
  std::mutex mutex_;
  std::vector<Endpoint> endpoints_ ABSL_GUARDED_BY(mutex_);
  size_t current_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The calls under way, so that they can be ended.
class CallsUnderWay {
 public:
  bool Begin(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    if (!cancelled_) contexts_.insert(context);
    return !cancelled_;
  }
  void End(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    contexts_.erase(context);
  }
  void Cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }

 private:
  std::mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

absl::Status Ended() { return absl::CancelledError("the conversation with etcd has ended"); }

class GrpcEtcdClient final : public EtcdClient {
 public:
  GrpcEtcdClient(const EtcdOptions& options, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : options_(options), endpoints_(options, std::move(credentials)) {
    KeepGrpcAlive();
  }

  absl::StatusOr<EtcdListing> List(const std::string& prefix) override {
    pb::RangeRequest request;
    request.set_key(prefix);
    request.set_range_end(PrefixEnd(prefix));
    pb::RangeResponse response;
    absl::Status status = Call<pb::KV>(&pb::KV::Stub::Range, request, &response);
    if (!status.ok()) return status;
    EtcdListing listing{response.header().revision(), response.header().cluster_id(), {}};
    if (!IsPossibleRevision(listing.revision)) {
      return absl::UnavailableError(absl::StrCat("etcd answered with revision ", listing.revision));
    }
    for (const pb::KeyValue& kv : response.kvs()) listing.entries.push_back(FromWire(kv));
    return listing;
  }

  absl::StatusOr<EtcdPut> PutIf(const std::string& key, const EtcdCondition& condition, const std::string& value,
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
    absl::Status status = Call<pb::KV>(&pb::KV::Stub::Txn, request, &response);
    if (!status.ok()) return status;
    return EtcdPut{response.succeeded(), response.header().revision()};
  }

  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl) override {
    pb::LeaseGrantRequest request;
    request.set_ttl(std::max<int64_t>(1, absl::ToInt64Seconds(absl::Ceil(ttl, absl::Seconds(1)))));
    pb::LeaseGrantResponse response;
    absl::Status status = Call<pb::Lease>(&pb::Lease::Stub::LeaseGrant, request, &response);
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
    pb::LeaseKeepAliveResponse response;
    absl::Status status = Converse([&](grpc::ClientContext* context, const std::shared_ptr<grpc::Channel>& channel) {
      const auto stub = pb::Lease::NewStub(channel);
      const auto stream = stub->LeaseKeepAlive(context);
      stream->Write(request);
      stream->WritesDone();
      const bool answered = stream->Read(&response);
      if (answered) context->TryCancel();  // etcd would end it only at its own pace
      const grpc::Status ended = stream->Finish();
      if (answered) return grpc::Status::OK;
      return ended.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "no answer to a keep-alive") : ended;
    });
    if (!status.ok()) return status;
    return absl::Seconds(std::max<int64_t>(0, response.ttl()));
  }

  absl::StatusOr<absl::Duration> TimeToLive(int64_t lease) override {
    pb::LeaseTimeToLiveRequest request;
    request.set_id(lease);
    pb::LeaseTimeToLiveResponse response;
    absl::Status status = Call<pb::Lease>(&pb::Lease::Stub::LeaseTimeToLive, request, &response);
    if (!status.ok()) return status;
    return absl::Seconds(std::max<int64_t>(0, response.ttl()));
  }

  absl::Status Revoke(int64_t lease) override {
    pb::LeaseRevokeRequest request;
    request.set_id(lease);
    pb::LeaseRevokeResponse response;
    absl::Status status = Call<pb::Lease>(&pb::Lease::Stub::LeaseRevoke, request, &response);
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }

  std::unique_ptr<EtcdWatch> Watch(const std::string& prefix, int64_t revision) override;

  void Cancel() override { calls_.Cancel(); }

  // Logged in if need be, as far as that is possible. For a call without a deadline.
  absl::Status LogIn(const Endpoints::Current& at, bool anew, grpc::ClientContext* context) {
    if (options_.user.empty()) return absl::OkStatus();
    std::string token;
    {
      std::lock_guard lock(mutex_);
      if (anew) logged_in_ = false;
      if (logged_in_) token = token_;
    }
    if (token.empty()) {
      absl::StatusOr<std::string> given = Authenticate(at);
      if (!given.ok()) return given.status();
      token = *given;
      std::lock_guard lock(mutex_);
      logged_in_ = true;
      token_ = token;
    }
    if (!token.empty()) context->AddMetadata("token", token);
    return absl::OkStatus();
  }

  absl::Status Judge(const Endpoints::Current& at, const grpc::Status& status) {
    if (status.error_code() == grpc::StatusCode::CANCELLED) return Ended();
    if (OfConnection(status)) {
      const auto code = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ? absl::StatusCode::kDeadlineExceeded
                                                                                   : absl::StatusCode::kUnavailable;
      return absl::Status(code, endpoints_.Failed(at, status));
    }
    endpoints_.Answered(at);
    if (status.ok()) return absl::OkStatus();
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat("etcd at ", at.name, ": ", status.error_message()));
  }

  Endpoints& endpoints() { return endpoints_; }
  CallsUnderWay& calls() { return calls_; }

 private:
  template <typename Service, typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response) {
    return Converse([&](grpc::ClientContext* context, const std::shared_ptr<grpc::Channel>& channel) {
      const auto stub = Service::NewStub(channel);
      return (stub.get()->*method)(context, request, response);
    });
  }

  // Runs `act` with the current endpoint's channel, logged in; once more after a new login if the token was refused.
  template <typename Act>
  absl::Status Converse(Act act) {
    for (bool again = false;; again = true) {
      const Endpoints::Current at = endpoints_.current();
      grpc::ClientContext context;
      if (absl::Status login = LogIn(at, again, &context); !login.ok()) return login;
      SetDeadline(&context);
      if (!calls_.Begin(&context)) return Ended();
      const grpc::Status status = act(&context, at.channel);
      calls_.End(&context);
      if (!again && WantsLogin(status)) continue;
      return Judge(at, status);
    }
  }

  // The token is too old, or authentication was turned on since.
  bool WantsLogin(const grpc::Status& status) const {
    if (options_.user.empty() || status.ok()) return false;
    return status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
           absl::StrContains(status.error_message(), "user name is empty") ||
           absl::StrContains(status.error_message(), "revision of auth store is old");
  }

  // "" where authentication is off: etcd lets everybody in.
  absl::StatusOr<std::string> Authenticate(const Endpoints::Current& at) {
    pb::AuthenticateRequest request;
    request.set_name(options_.user);
    request.set_password(options_.password);
    pb::AuthenticateResponse response;
    grpc::ClientContext context;
    SetDeadline(&context);
    if (!calls_.Begin(&context)) return Ended();
    const grpc::Status status = pb::Auth::NewStub(at.channel)->Authenticate(&context, request, &response);
    calls_.End(&context);
    if (absl::StrContains(status.error_message(), "authentication is not enabled")) return "";
    absl::Status judged = Judge(at, status);
    if (!judged.ok()) return judged;
    return response.token();
  }

  void SetDeadline(grpc::ClientContext* context) const {
    context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(options_.call_deadline));
  }

  const EtcdOptions options_;
  Endpoints endpoints_;
  CallsUnderWay calls_;
  std::mutex mutex_;
  bool logged_in_ ABSL_GUARDED_BY(mutex_) = false;
  std::string token_ ABSL_GUARDED_BY(mutex_);
};

class GrpcEtcdWatch final : public EtcdWatch {
 public:
  GrpcEtcdWatch(GrpcEtcdClient* client, const std::string& prefix, int64_t revision) : client_(client) {
    pb::WatchCreateRequest* create = request_.mutable_create_request();
    create->set_key(prefix);
    create->set_range_end(PrefixEnd(prefix));
    create->set_start_revision(revision);
  }

  absl::Status Run(const std::function<bool(const EtcdChange&)>& sink) override {
    const Endpoints::Current at = client_->endpoints().current();
    if (absl::Status login = client_->LogIn(at, false, &context_); !login.ok()) return login;
    if (!client_->calls().Begin(&context_)) return Ended();
    const auto stub = pb::Watch::NewStub(at.channel);
    const auto stream = stub->Watch(&context_);
    stream->Write(request_);
    Offer(stream.get());
    absl::Status refused;
    const bool enough = Read(stream.get(), sink, &refused);
    Offer(nullptr);
    if (enough || !refused.ok()) context_.TryCancel();  // else it has ended, and Finish says why
    const grpc::Status ended = stream->Finish();
    client_->calls().End(&context_);
    if (!refused.ok()) return refused;
    if (enough || ended.error_code() == grpc::StatusCode::CANCELLED) return Ended();
    if (ended.ok()) return absl::UnavailableError(absl::StrCat("etcd at ", at.name, " ended the watch"));
    return client_->Judge(at, ended);
  }

  void Ask() override {
    std::lock_guard lock(mutex_);
    if (stream_ == nullptr) return;
    pb::WatchRequest request;
    request.mutable_progress_request();
    stream_->Write(request);
  }

  void Cancel() override { context_.TryCancel(); }

 private:
  using Stream = grpc::ClientReaderWriter<pb::WatchRequest, pb::WatchResponse>;

  // True if the sink wants no more; false if the stream ended or etcd refused.
  bool Read(Stream* stream, const std::function<bool(const EtcdChange&)>& sink, absl::Status* refused) {
    for (pb::WatchResponse response; stream->Read(&response);) {
      const EtcdChange change = FromWire(response);
      if (response.canceled() && !change.compacted) {
        *refused = absl::PermissionDeniedError(absl::StrCat("etcd refuses to be watched: ", response.cancel_reason()));
        return false;
      }
      for (const EtcdEvent& event : change.events) {
        if (IsPossibleRevision(event.entry.mod_revision)) continue;
        *refused = absl::UnavailableError(absl::StrCat("etcd sent revision ", event.entry.mod_revision));
        return false;
      }
      if (!sink(change) || change.compacted) return true;
    }
    return false;
  }

  void Offer(Stream* stream) {
    std::lock_guard lock(mutex_);
    stream_ = stream;
  }

  GrpcEtcdClient* const client_;
  pb::WatchRequest request_;
  grpc::ClientContext context_;
  std::mutex mutex_;
  Stream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;  // to be written to
};

std::unique_ptr<EtcdWatch> GrpcEtcdClient::Watch(const std::string& prefix, int64_t revision) {
  return std::make_unique<GrpcEtcdWatch>(this, prefix, revision);
}

// Reads one PEM file; names it in `problems` if it cannot.
std::string ReadPem(const char* what, const std::string& path, std::vector<std::string>* problems) {
  if (path.empty()) return "";
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (absl::StrContains(text.str(), "-----BEGIN")) return text.str();
  problems->push_back(absl::StrCat(what, " ", path, file ? " holds no PEM" : " cannot be read"));
  return "";
}

void FindProblems(const EtcdOptions& options, std::vector<std::string>* problems) {
  if (options.endpoints.empty()) problems->push_back("no endpoints: give host:port of at least one member");
  for (const std::string& endpoint : options.endpoints) {
    const absl::StatusOr<Address> address = ParseAddress(endpoint);
    if (!address.ok()) {
      problems->push_back(std::string(address.status().message()));
    } else if (address->port == 0) {
      problems->push_back(absl::StrCat("endpoint \"", endpoint, "\" has port 0"));
    }
  }
  if (options.cluster.empty() || absl::StrContains(options.cluster, '/')) {
    problems->push_back(absl::StrCat("cluster name \"", options.cluster, "\" is empty or holds a slash"));
  }
  if (options.lease < absl::Seconds(1)) problems->push_back("lease is less than 1s");
  if (options.call_deadline < absl::Milliseconds(1)) problems->push_back("call_deadline is less than 1ms");
  if (options.hold < absl::ZeroDuration()) problems->push_back("hold is negative");
  if (options.user.empty() != options.password.empty()) problems->push_back("give both user and password, or none");
  if (options.cert_file.empty() != options.key_file.empty()) {
    problems->push_back("give both certificate and key file, or none");
  }
  if (options.ca_file.empty() && !options.cert_file.empty()) problems->push_back("a certificate needs a CA file, too");
}

}  // namespace

absl::StatusOr<std::unique_ptr<EtcdClient>> NewEtcdClient(const EtcdOptions& options) {
  std::vector<std::string> problems;
  FindProblems(options, &problems);
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = ReadPem("CA file", options.ca_file, &problems);
  tls.pem_cert_chain = ReadPem("certificate file", options.cert_file, &problems);
  tls.pem_private_key = ReadPem("key file", options.key_file, &problems);
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrCat("etcd: ", absl::StrJoin(problems, "; ")));
  return std::make_unique<GrpcEtcdClient>(
      options, options.ca_file.empty() ? grpc::InsecureChannelCredentials() : grpc::SslCredentials(tls));
}

absl::StatusOr<std::unique_ptr<Membership>> NewEtcdMembership(EtcdOptions options, Runtime* runtime) {
  absl::StatusOr<std::unique_ptr<EtcdClient>> client = NewEtcdClient(options);
  if (!client.ok()) return client.status();
  return NewMembershipOver(*std::move(client), std::move(options), runtime);
}

}  // namespace kvist
