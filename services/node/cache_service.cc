#include "services/node/cache_service.h"

#include <iterator>
#include <utility>

#include "services/node/get_stream.h"
#include "services/node/profile_streams.h"
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

// Calls `act` for whoever calls, if he is let in.
template <typename Response, typename Act>
grpc::ServerUnaryReactor* Answer(const Callers& callers, CacheHandlers* handlers, Method method,
                                 grpc::CallbackServerContext* context, Response* response, Act act) {
  const TraceScope trace(TraceOf(*context));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::StatusOr<Caller> caller = callers.Of(*context);
  absl::Status status = caller.status();
  if (caller.ok()) {
    absl::StatusOr<Response> answer = act(*caller);
    status = answer.status();
    if (answer.ok()) *response = *std::move(answer);
  } else {
    handlers->CountRefused(method, status);
  }
  reactor->Finish(ToGrpc(status, context));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* CacheService::Get(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request) {
  const TraceScope trace(TraceOf(*context));
  return NewGetStream(context, *request, callers_.Of(*context), handlers_);
}
grpc::ServerReadReactor<grpc::ByteBuffer>* CacheService::Put(grpc::CallbackServerContext* context,
                                                             grpc::ByteBuffer* response) {
  const TraceScope trace(TraceOf(*context));
  return NewPutStream(context, response, callers_.Of(*context), handlers_);
}
grpc::ServerReadReactor<v1::PutProfileRequest>* CacheService::PutProfile(grpc::CallbackServerContext* context,
                                                                         v1::PutProfileResponse* response) {
  const TraceScope trace(TraceOf(*context));
  return NewPutProfileStream(context, response, callers_.Of(*context), handlers_);
}
grpc::ServerWriteReactor<v1::GetProfileResponse>* CacheService::GetProfile(grpc::CallbackServerContext* context,
                                                                           const v1::GetProfileRequest* request) {
  const TraceScope trace(TraceOf(*context));
  return NewGetProfileStream(context, *request, callers_.Of(*context), handlers_);
}
grpc::ServerUnaryReactor* CacheService::Match(grpc::CallbackServerContext* context, const v1::MatchRequest* request,
                                              v1::MatchResponse* response) {
  return Answer(callers_, handlers_, Method::kMatch, context, response,
                [&](const Caller& caller) { return handlers_->Match(caller, *request); });
}
grpc::ServerUnaryReactor* CacheService::Erase(grpc::CallbackServerContext* context, const v1::EraseRequest* request,
                                              v1::EraseResponse* response) {
  return Answer(callers_, handlers_, Method::kErase, context, response,
                [&](const Caller& caller) { return handlers_->Erase(caller, *request); });
}
grpc::ServerUnaryReactor* CacheService::Release(grpc::CallbackServerContext* context, const v1::ReleaseRequest* request,
                                                v1::ReleaseResponse* response) {
  return Answer(callers_, handlers_, Method::kRelease, context, response,
                [&](const Caller& caller) { return handlers_->Release(caller, *request); });
}
grpc::ServerUnaryReactor* CacheService::ServerInfo(grpc::CallbackServerContext* context,
                                                   const v1::ServerInfoRequest* request,
                                                   v1::ServerInfoResponse* response) {
  return Answer(callers_, handlers_, Method::kServerInfo, context, response,
                [&](const Caller& caller) { return handlers_->ServerInfo(caller); });
}
grpc::ServerUnaryReactor* CacheService::Explain(grpc::CallbackServerContext* context, const v1::ExplainRequest* request,
                                                v1::ExplainResponse* response) {
  return Answer(callers_, handlers_, Method::kExplain, context, response,
                [&](const Caller& caller) { return handlers_->Explain(caller, *request); });
}
grpc::ServerUnaryReactor* CacheService::Describe(grpc::CallbackServerContext* context,
                                                 const v1::DescribeRequest* request, v1::DescribeResponse* response) {
  return Answer(callers_, handlers_, Method::kDescribe, context, response,
                [&](const Caller& caller) { return handlers_->Describe(caller, *request); });
}
grpc::ServerUnaryReactor* CacheService::Report(grpc::CallbackServerContext* context, const v1::ReportRequest* request,
                                               v1::ReportResponse* response) {
  return Answer(callers_, handlers_, Method::kReport, context, response,
                [&](const Caller& caller) { return handlers_->Report(caller, *request); });
}

grpc::ServerUnaryReactor* ClusterService::GetView(grpc::CallbackServerContext* context,
                                                  const v1::GetViewRequest* request, v1::GetViewResponse* response) {
  return Answer(callers_, handlers_, Method::kGetView, context, response,
                [&](const Caller& caller) { return handlers_->GetView(caller); });
}
grpc::ServerUnaryReactor* ClusterService::Adopt(grpc::CallbackServerContext* context, const v1::AdoptRequest* request,
                                                v1::AdoptResponse* response) {
  return Answer(callers_, handlers_, Method::kAdopt, context, response,
                [&](const Caller& caller) { return handlers_->Adopt(caller, *request); });
}
grpc::ServerUnaryReactor* ClusterService::Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                                v1::DrainResponse* response) {
  return Answer(callers_, handlers_, Method::kDrain, context, response,
                [&](const Caller& caller) { return handlers_->Drain(caller, *request); });
}

}  // namespace kvist
