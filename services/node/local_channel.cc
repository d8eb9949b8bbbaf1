#include "services/node/local_channel.h"

#include <cstring>
#include <utility>
#include <variant>

#include "absl/status/status.h"

namespace kvist {
namespace {

class LocalPutStream final : public PutStream {
 public:
  explicit LocalPutStream(std::unique_ptr<PutSession> session) : session_(std::move(session)) {}

  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override {
    if (absl::Status status = session_->Write(offset, bytes); !status.ok()) return status;
    return session_->over() ? absl::AlreadyExistsError("the node has this block") : absl::OkStatus();
  }
  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override { return session_->Commit(size_bytes); }

 private:
  const std::unique_ptr<PutSession> session_;
};

absl::Status Deliver(const PinnedPart& part, GetSink* sink) {
  absl::StatusOr<absl::Span<uint8_t>> place = sink->OnPart(part.item, part.offset, part.size_bytes);
  if (!place.ok()) return place.status();
  if (place->size() != part.size_bytes) return absl::InternalError("a GetSink gave a place of another size");
  uint8_t* to = place->data();
  for (absl::Span<const uint8_t> bytes : part.data) {
    std::memcpy(to, bytes.data(), bytes.size());
    to += bytes.size();
  }
  return absl::OkStatus();
}

class LocalChannel final : public Channel {
 public:
  LocalChannel(CacheHandlers* handlers, Runtime* runtime, Caller caller)
      : handlers_(handlers), runtime_(runtime), caller_(std::move(caller)) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Match(caller_, request); });
  }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Erase(caller_, request); });
  }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Release(caller_, request); });
  }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->ServerInfo(caller_); });
  }
  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Explain(caller_, request); });
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Describe(caller_, request); });
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Report(caller_, request); });
  }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->GetView(caller_); });
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Adopt(caller_, request); });
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) override {
    return Call(deadline, [&] { return handlers_->Drain(caller_, request); });
  }

  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    absl::StatusOr<std::unique_ptr<GetSession>> session =
        Call(deadline, [&] { return handlers_->OpenGet(caller_, request, deadline); });
    if (!session.ok()) return session.status();
    while (true) {
      absl::StatusOr<GetSession::Message> message = (*session)->Next();
      if (!message.ok()) return message.status();
      if (const auto* trailer = std::get_if<v1::GetTrailer>(&*message)) return *trailer;
      const auto* header = std::get_if<v1::GetHeader>(&*message);
      absl::Status status = header != nullptr ? sink->OnHeader(*header) : Deliver(std::get<PinnedPart>(*message), sink);
      if (!status.ok()) return status;
    }
  }

  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                    absl::Time deadline) override {
    absl::StatusOr<std::unique_ptr<ProfilePutSession>> session =
        Call(deadline, [&] { return handlers_->OpenPutProfile(caller_, deadline); });
    if (!session.ok()) return session.status();
    const absl::StatusOr<bool> wanted = (*session)->Name(name);
    if (!wanted.ok()) return wanted.status();
    if (!*wanted) return v1::PutProfileResponse();
    if (absl::Status written = (*session)->Write(file); !written.ok()) return written;
    return (*session)->Commit();
  }

  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) override {
    const absl::StatusOr<std::shared_ptr<const std::string>> file =
        Call(deadline, [&] { return handlers_->GetProfile(caller_, request, deadline); });
    if (!file.ok()) return file.status();
    return *file == nullptr ? "" : **file;
  }

  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override {
    absl::StatusOr<std::unique_ptr<PutSession>> session =
        Call(deadline, [&] { return handlers_->OpenPut(caller_, deadline); });
    if (!session.ok()) return session.status();
    const absl::StatusOr<bool> reserved = (*session)->Reserve(reserve);
    if (!reserved.ok()) return reserved.status();
    if (!*reserved) return absl::AlreadyExistsError("the node has this block, or another is writing it");
    return std::make_unique<LocalPutStream>(*std::move(session));
  }

 private:
  template <typename Body>
  auto Call(absl::Time deadline, Body body) -> decltype(body()) {
    if (runtime_->Now() >= deadline) return absl::DeadlineExceededError("the call began after its deadline");
    return body();
  }

  CacheHandlers* const handlers_;
  Runtime* const runtime_;
  const Caller caller_;
};

}  // namespace

std::unique_ptr<Channel> NewLocalChannel(CacheHandlers* handlers, Runtime* runtime, Caller caller) {
  return std::make_unique<LocalChannel>(handlers, runtime, std::move(caller));
}

}  // namespace kvist
