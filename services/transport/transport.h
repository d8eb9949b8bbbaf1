// How a worker's requests reach one node. gRPC today; shared memory, NCCL and a simulated network implement the same.
//
// Units   bytes; deadlines are points in time of the Clock that the transport was built with.
// Threads a Channel may be used by any number of threads at once. Every call returns by its deadline, whatever the peer
//         does.
// Errors  the canonical codes of proto/kvist/v1/cache.proto, plus Unavailable (no connection) and DeadlineExceeded. A
//         ResourceExhausted may say when to come again (retry_hint.h).
#ifndef KVIST_SERVICES_TRANSPORT_TRANSPORT_H_
#define KVIST_SERVICES_TRANSPORT_TRANSPORT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kvist/v1/cache.pb.h"
#include "kvist/v1/cluster.pb.h"

namespace kvist {

inline constexpr size_t kMaxPartBytes = 1 << 20;          // of data in one message of a stream
inline constexpr size_t kMaxProfileFileBytes = 64 << 20;  // of a profile

// Receives one Get stream, in order, on the thread that called Channel::Get. A returned error ends the stream.
class GetSink {
 public:
  virtual ~GetSink() = default;
  virtual absl::Status OnHeader(const v1::GetHeader& header) = 0;
  // `size_bytes` bytes of the item are about to come for `offset`: where they should be written. The sink checks
  // bounds; the transport fills the returned span, which must be `size_bytes` long, before the next call.
  virtual absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) = 0;
};

// One Put, by one thread. Destruction before Commit aborts: the node returns the space.
class PutStream {
 public:
  virtual ~PutStream() = default;
  // Sends `bytes` for `offset`, cut into parts; `bytes` may be reused when it returns. AlreadyExists: the node has the
  // block after all (it may find that only when it sees the head of a copy); the stream is spent.
  virtual absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) = 0;
  // Ends the stream and returns the node's verdict. The stream is spent.
  virtual absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) = 0;
};

class Channel {
 public:
  virtual ~Channel() = default;
  virtual absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) = 0;
  virtual absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) = 0;
  // Returns when the node has reserved the space; AlreadyExists when it has the block, or another is writing it.
  virtual absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) = 0;
  // Has the node keep a profile. `file` are its bytes, `name` says their digest and number.
  virtual absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                            absl::Time deadline) = 0;
  // The bytes that the node has under the digest, as they came; "" = it has none.
  virtual absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // A channel to "host:port". Does not wait: an address where nobody listens fails at the first call, as Unavailable.
  virtual std::unique_ptr<Channel> Connect(const std::string& address) = 0;
};

class TlsIdentity;  // tls.h
class BearerToken;  // bearer_token.h

// In plaintext, or with `tls`, which its channels share. Every call shows `token`, if there is one.
std::unique_ptr<Transport> NewGrpcTransport(std::shared_ptr<const TlsIdentity> tls = nullptr,
                                            std::shared_ptr<BearerToken> token = nullptr);  // grpc_transport.cc

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_TRANSPORT_H_
