// Transport over gRPC. Unary calls use the generated stub; streams are raw, so that parts are copied once
// (part_stream.h).
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kvist/v1/cache.grpc.pb.h"
#include "kvist/v1/cluster.grpc.pb.h"
#include "services/runtime/trace.h"
#include "services/transport/bearer_token.h"
#include "services/transport/grpc_library.h"
#include "services/transport/grpc_status.h"
#include "services/transport/part_stream.h"
#include "services/transport/tls.h"
#include "services/transport/transport.h"

namespace kvist {
namespace {

constexpr char kGetMethod[] = "/kvist.v1.Cache/Get";
constexpr char kPutMethod[] = "/kvist.v1.Cache/Put";
constexpr int kMaxMessageBytes = 4 << 20;  // a part and its header; a Match of 4,096 keys is 128 KiB
constexpr int kWindowBytes = 32 << 20;     // in flight on one stream
constexpr int kKeepaliveMs = 30'000, kKeepaliveTimeoutMs = 10'000;

// What every call carries.
void Prepare(absl::Time deadline, BearerToken* token, grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(deadline));
  if (token != nullptr) context->AddMetadata("authorization", absl::StrCat("Bearer ", token->Current()));
  if (const Trace& trace = CurrentTrace(); trace.known()) context->AddMetadata(kTraceparent, trace.ToTraceparent());
}

// One raw stream, driven by one thread that blocks on each step. gRPC ends every step by the context's deadline.
class RawStream {
 public:
  RawStream(grpc::GenericStub* stub, const char* method, absl::Time deadline, BearerToken* token) {
    Prepare(deadline, token, &context_);
    call_ = stub->PrepareCall(&context_, method, &queue_);
    call_->StartCall(Tag());
    alive_ = Wait();
  }
  ~RawStream() {
    if (!finished_) {
      context_.TryCancel();
      Finish().IgnoreError();
    }
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  bool Write(const grpc::ByteBuffer& message, grpc::WriteOptions options = {}) {
    if (!alive_) return false;
    call_->Write(message, options, Tag());
    return Wait();
  }
  bool Read(grpc::ByteBuffer* message) {
    if (!alive_) return false;
    call_->Read(message, Tag());
    return Wait();
  }
  // True if the peer sent initial metadata that names `key`; false if it ended the call or sent none.
  bool WaitForMetadata(const char* key) {
    if (!alive_) return false;
    call_->ReadInitialMetadata(Tag());
    return Wait() && context_.GetServerInitialMetadata().count(key) > 0;
  }
  absl::Status Finish() {
    finished_ = true;
    grpc::Status status;
    call_->Finish(&status, Tag());
    Wait();
    return FromGrpc(status, context_);
  }
  void Cancel() { context_.TryCancel(); }

 private:
  void* Tag() { return this; }
  bool Wait() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool alive_ = false, finished_ = false;
};

class GrpcPutStream : public PutStream {
 public:
  GrpcPutStream(grpc::GenericStub* stub, absl::Time deadline, BearerToken* token)
      : stream_(stub, kPutMethod, deadline, token) {}

  absl::Status Reserve(const v1::PutReserve& reserve) {
    v1::PutRequest request;
    *request.mutable_reserve() = reserve;
    if (stream_.Write(EncodeMessage(request)) && stream_.WaitForMetadata(kReservedMetadata)) return absl::OkStatus();
    absl::StatusOr<v1::PutResponse> response = Verdict();
    if (!response.ok()) return response.status();
    return absl::AlreadyExistsError("the node has this block, or another is writing it");
  }

  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override {
    while (!bytes.empty()) {
      const size_t part_bytes = std::min(bytes.size(), kMaxPartBytes);
      grpc::Slice data(bytes.data(), part_bytes);  // copies: gRPC may hold the message longer than this call
      if (!stream_.Write(EncodePart(0, offset, {std::move(data)}))) return EarlyEnd();
      bytes.remove_prefix(part_bytes);
      offset += part_bytes;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override {
    v1::PutRequest request;
    request.mutable_commit()->set_size_bytes(size_bytes);
    stream_.Write(EncodeMessage(request), grpc::WriteOptions().set_last_message());
    return Verdict();
  }

 private:
  absl::StatusOr<v1::PutResponse> Verdict() {
    grpc::ByteBuffer message;
    v1::PutResponse response;
    const bool answered = stream_.Read(&message);
    const absl::Status status = stream_.Finish();
    if (!status.ok()) return status;
    if (!answered || !DecodeMessage(message, &response))
      return absl::InternalError("the node ended a Put without an answer");
    return response;
  }
  absl::Status EarlyEnd() {
    absl::StatusOr<v1::PutResponse> response = Verdict();
    if (!response.ok()) return response.status();
    // A copy of a block that is there ends once its head has been compared.
    if (!response->stored()) return absl::AlreadyExistsError("the node has this block");
    return absl::InternalError("the node ended a Put before its commit");
  }

  RawStream stream_;
};

// Feeds one received message of a Get to the sink; true when it was the trailer.
absl::StatusOr<bool> Deliver(const grpc::ByteBuffer& message, GetSink* sink, v1::GetTrailer* trailer) {
  absl::StatusOr<std::optional<ReceivedPart>> part = ReceivedPart::Parse(message);
  if (!part.ok()) return part.status();
  if (part->has_value()) {
    absl::StatusOr<absl::Span<uint8_t>> place = sink->OnPart((*part)->item(), (*part)->offset(), (*part)->size_bytes());
    if (!place.ok()) return place.status();
    if (place->size() != (*part)->size_bytes()) return absl::InternalError("a GetSink gave a place of another size");
    (*part)->CopyTo(*place);
    return false;
  }
  v1::GetResponse response;
  if (!DecodeMessage(message, &response)) return absl::InternalError("a message of Get cannot be read");
  if (response.has_header()) {
    if (absl::Status status = sink->OnHeader(response.header()); !status.ok()) return status;
    return false;
  }
  *trailer = response.trailer();
  return response.has_trailer();
}

// The messages of a GetProfile. Memory is taken for what has come, not for what was announced.
class ProfileBytes {
 public:
  absl::Status Take(const v1::GetProfileResponse& response) {
    if (first_) announced_ = response.size_bytes();
    first_ = false;
    if (announced_ > kMaxProfileFileBytes || response.data().size() > announced_ - bytes_.size()) {
      return absl::DataLossError("the node sent more than a profile has");
    }
    bytes_ += response.data();
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> Whole() {
    if (first_) return absl::InternalError("the node ended a GetProfile without an answer");
    if (bytes_.size() < announced_) return absl::DataLossError("the profile came incomplete");
    return std::move(bytes_);
  }

 private:
  bool first_ = true;
  uint64_t announced_ = 0;
  std::string bytes_;
};

class GrpcChannel : public Channel {
 public:
  GrpcChannel(std::shared_ptr<grpc::Channel> channel, std::shared_ptr<const TlsIdentity> tls,
              std::shared_ptr<BearerToken> token)
      : tls_(std::move(tls)),
        token_(std::move(token)),
        cluster_stub_(v1::Cluster::NewStub(channel)),
        stub_(v1::Cache::NewStub(channel)),
        raw_stub_(std::move(channel)) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    return Unary<v1::MatchResponse>(&v1::Cache::Stub::Match, request, deadline);
  }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    return Unary<v1::EraseResponse>(&v1::Cache::Stub::Erase, request, deadline);
  }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) override {
    return Unary<v1::ReleaseResponse>(&v1::Cache::Stub::Release, request, deadline);
  }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    return Unary<v1::ServerInfoResponse>(&v1::Cache::Stub::ServerInfo, v1::ServerInfoRequest(), deadline);
  }
  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    return Unary<v1::ExplainResponse>(&v1::Cache::Stub::Explain, request, deadline);
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) override {
    return Unary<v1::DescribeResponse>(&v1::Cache::Stub::Describe, request, deadline);
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    return Unary<v1::ReportResponse>(&v1::Cache::Stub::Report, request, deadline);
  }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    return Unary<v1::GetViewResponse>(&v1::Cluster::Stub::GetView, v1::GetViewRequest(), deadline);
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) override {
    return Unary<v1::AdoptResponse>(&v1::Cluster::Stub::Adopt, request, deadline);
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) override {
    return Unary<v1::DrainResponse>(&v1::Cluster::Stub::Drain, request, deadline);
  }

  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    RawStream stream(&raw_stub_, kGetMethod, deadline, token_.get());
    stream.Write(EncodeMessage(request), grpc::WriteOptions().set_last_message());
    v1::GetTrailer trailer;
    bool complete = false;
    for (grpc::ByteBuffer message; stream.Read(&message); message.Clear()) {
      absl::StatusOr<bool> last = Deliver(message, sink, &trailer);
      if (!last.ok()) return last.status();  // the stream's destructor cancels the call
      complete = complete || *last;
    }
    if (absl::Status status = stream.Finish(); !status.ok()) return Told(std::move(status));
    if (!complete) return absl::InternalError("the node ended a Get without a trailer");
    return trailer;
  }

  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override {
    auto stream = std::make_unique<GrpcPutStream>(&raw_stub_, deadline, token_.get());
    if (absl::Status status = stream->Reserve(reserve); !status.ok()) return Told(std::move(status));
    return stream;
  }

  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                    absl::Time deadline) override {
    grpc::ClientContext context;
    Prepare(deadline, token_.get(), &context);
    v1::PutProfileResponse response;
    const std::unique_ptr<grpc::ClientWriter<v1::PutProfileRequest>> writer = stub_->PutProfile(&context, &response);
    v1::PutProfileRequest request;
    *request.mutable_name() = name;
    bool writes = writer->Write(request);
    writer->WaitForInitialMetadata();
    writes = writes && context.GetServerInitialMetadata().count(kWantedMetadata) > 0;
    while (writes && !file.empty()) {
      request.set_data(std::string(file.substr(0, kMaxPartBytes)));
      writes = writer->Write(request);
      file.remove_prefix(std::min(file.size(), kMaxPartBytes));
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (!status.ok()) return Told(FromGrpc(status, context));
    return response;
  }

  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) override {
    grpc::ClientContext context;
    Prepare(deadline, token_.get(), &context);
    const std::unique_ptr<grpc::ClientReader<v1::GetProfileResponse>> reader = stub_->GetProfile(&context, request);
    ProfileBytes bytes;
    v1::GetProfileResponse response;
    while (reader->Read(&response)) {
      if (absl::Status taken = bytes.Take(response); !taken.ok()) {
        context.TryCancel();
        reader->Finish();
        return taken;
      }
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return Told(FromGrpc(status, context));
    return bytes.Whole();
  }

 private:
  template <typename Response, typename Service, typename Request>
  absl::StatusOr<Response> Unary(grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
                                 const Request& request, absl::Time deadline) {
    grpc::ClientContext context;
    Prepare(deadline, token_.get(), &context);
    Response response;
    grpc::Status status;
    if constexpr (std::is_same_v<Service, v1::Cluster::Stub>) {
      status = (cluster_stub_.get()->*method)(&context, request, &response);
    } else {
      status = (stub_.get()->*method)(&context, request, &response);
    }
    if (!status.ok()) return Told(FromGrpc(status, context));
    return response;
  }
  absl::Status Told(absl::Status status) const { return WithTlsHint(std::move(status), tls_ != nullptr); }

  const std::shared_ptr<const TlsIdentity> tls_;  // outlives the stubs
  const std::shared_ptr<BearerToken> token_;
  std::unique_ptr<v1::Cluster::Stub> cluster_stub_;
  std::unique_ptr<v1::Cache::Stub> stub_;
  grpc::GenericStub raw_stub_;
};

class GrpcTransport : public Transport {
 public:
  GrpcTransport(std::shared_ptr<const TlsIdentity> tls, std::shared_ptr<BearerToken> token)
      : tls_(std::move(tls)), token_(std::move(token)) {
    KeepGrpcAlive();
  }

  std::unique_ptr<Channel> Connect(const std::string& address) override {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // channels to one address get connections of their own
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);             // the client retries, within its own budget
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    // What one attempt to connect may take: with 100 ms a node on a busy machine was taken for one that is down, and a
    // handshake of TLS takes two signatures and their verification.
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, tls_ == nullptr ? 1'000 : 2'000);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
    // A fixed window in place of bandwidth probes, whose pings cost a third of the throughput on loopback; reads of 256
    // KiB.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindowBytes);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
    arguments.SetInt(GRPC_ARG_TCP_READ_CHUNK_SIZE, 256 << 10);
    return std::make_unique<GrpcChannel>(ConnectGrpc(address, arguments, tls_.get()), tls_, token_);
  }

 private:
  const std::shared_ptr<const TlsIdentity> tls_;
  const std::shared_ptr<BearerToken> token_;
};

}  // namespace

std::unique_ptr<Transport> NewGrpcTransport(std::shared_ptr<const TlsIdentity> tls,
                                            std::shared_ptr<BearerToken> token) {
  return std::make_unique<GrpcTransport>(std::move(tls), std::move(token));
}

}  // namespace kvist
