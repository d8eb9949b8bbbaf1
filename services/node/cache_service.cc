#include "services/node/cache_service.h"

#include <iterator>
#include <utility>

#include "services/node/get_stream.h"
#include "services/node/put_stream.h"
#include "services/runtime/trace.h"
#include "services/transport/grpc_status.h"

namespace kvist {
namespace {

// The trace that the caller works for; none if it names none, or more than one.
Trace TraceOf(const grpc::CallbackServerContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kTraceparent);
  if (first == last || std::next(first) != last) return {};
  return ParseTraceparent({first->second.data(), first->second.size()}).value_or(Trace());
}

template <typename Response>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, absl::StatusOr<Response> answer,
                                 Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (answer.ok()) *response = *std::move(answer);
  reactor->Finish(ToGrpc(answer.status(), context));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* CacheService::Get(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request) {
  const TraceScope trace(TraceOf(*context));
  return NewGetStream(context, *request, handlers_);
}
grpc::ServerReadReactor<grpc::ByteBuffer>* CacheService::Put(grpc::CallbackServerContext* context,
                                                             grpc::ByteBuffer* response) {
  const TraceScope trace(TraceOf(*context));
  return NewPutStream(context, response, handlers_);
}
grpc::ServerUnaryReactor* CacheService::Match(grpc::CallbackServerContext* context, const v1::MatchRequest* request,
                                              v1::MatchResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Match(*request), response);
}
grpc::ServerUnaryReactor* CacheService::Erase(grpc::CallbackServerContext* context, const v1::EraseRequest* request,
                                              v1::EraseResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Erase(*request), response);
}
grpc::ServerUnaryReactor* CacheService::Release(grpc::CallbackServerContext* context, const v1::ReleaseRequest* request,
                                                v1::ReleaseResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Release(*request), response);
}
grpc::ServerUnaryReactor* CacheService::ServerInfo(grpc::CallbackServerContext* context,
                                                   const v1::ServerInfoRequest* request,
                                                   v1::ServerInfoResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->ServerInfo(), response);
}
grpc::ServerUnaryReactor* CacheService::Explain(grpc::CallbackServerContext* context, const v1::ExplainRequest* request,
                                                v1::ExplainResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Explain(*request), response);
}
grpc::ServerUnaryReactor* CacheService::Describe(grpc::CallbackServerContext* context,
                                                 const v1::DescribeRequest* request, v1::DescribeResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Describe(*request), response);
}
grpc::ServerUnaryReactor* CacheService::Report(grpc::CallbackServerContext* context, const v1::ReportRequest* request,
                                               v1::ReportResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Report(*request), response);
}

grpc::ServerUnaryReactor* ClusterService::GetView(grpc::CallbackServerContext* context,
                                                  const v1::GetViewRequest* request, v1::GetViewResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->GetView(), response);
}
grpc::ServerUnaryReactor* ClusterService::Adopt(grpc::CallbackServerContext* context, const v1::AdoptRequest* request,
                                                v1::AdoptResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Adopt(*request), response);
}
grpc::ServerUnaryReactor* ClusterService::Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                                v1::DrainResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return Answer(context, handlers_->Drain(*request), response);
}

}  // namespace kvist
