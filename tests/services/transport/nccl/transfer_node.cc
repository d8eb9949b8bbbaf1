#include "tests/services/transport/nccl/transfer_node.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kvist/v1/cache.grpc.pb.h"
#include "services/transport/nccl/transfer_service.h"

namespace kvist::testing {
namespace {

constexpr size_t kPart = 512 << 10;

class CacheOfBlocks final : public v1::Cache::Service {
 public:
  explicit CacheOfBlocks(PlacedBlocks* blocks) : blocks_(blocks) {}

  grpc::Status Get(grpc::ServerContext*, const v1::GetRequest* request,
                   grpc::ServerWriter<v1::GetResponse>* stream) override {
    std::vector<Key> keys(request->keys().size() / 32);
    for (size_t i = 0; i < keys.size(); ++i) std::memcpy(keys[i].bytes.data(), request->keys().data() + 32 * i, 32);
    for (size_t i = 0; i < keys.size(); ++i) {
      const std::vector<uint8_t> bytes = blocks_->Bytes(keys[i]);
      const uint64_t size = bytes.size();
      v1::GetResponse header;
      header.mutable_header()->set_item(uint32_t(i));
      header.mutable_header()->set_block_bytes(size);
      header.mutable_header()->set_sent_bytes(size);
      if (size == 0) header.mutable_header()->set_miss(v1::MISS_REASON_NEVER_STORED);
      stream->Write(header);
      for (size_t at = 0; at < size; at += kPart) {
        v1::GetResponse part;
        part.mutable_part()->set_item(uint32_t(i));
        part.mutable_part()->set_offset(at);
        part.mutable_part()->set_data(bytes.data() + at, std::min(kPart, size - at));
        stream->Write(part);
      }
    }
    v1::GetResponse trailer;
    trailer.mutable_trailer()->set_hits(uint32_t(keys.size()));
    stream->Write(trailer);
    return grpc::Status::OK;
  }

 private:
  PlacedBlocks* const blocks_;
};

}  // namespace

struct TransferNode::Server {
  Server(PlacedBlocks* blocks, TransferSessions* sessions) : cache(blocks), transfer(NewTransferService(sessions)) {}
  CacheOfBlocks cache;
  std::unique_ptr<grpc::Service> transfer;
  std::unique_ptr<grpc::Server> server;
};

TransferNode::TransferNode(uint32_t count, NcclLimits limits, std::shared_ptr<TlsIdentity> tls)
    : end(limits, 0),
      blocks(end.device.get()),
      sessions(end.communicators.get(), &blocks, HostId(), {}),
      tls_(std::move(tls)),
      server_(std::make_unique<Server>(&blocks, &sessions)) {
  for (uint32_t i = 0; i < count; ++i) blocks.Add(KeyOf(i), BlockBytes(i));
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", tls_ ? tls_->ForServer() : grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&server_->cache);
  builder.RegisterService(server_->transfer.get());
  server_->server = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

TransferNode::~TransferNode() { server_->server->Shutdown(absl::ToChronoTime(absl::Now() + absl::Seconds(1))); }

}  // namespace kvist::testing
