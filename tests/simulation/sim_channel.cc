#include "tests/simulation/sim_channel.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/simulation/sim_network.h"

namespace kvist::simulation {
namespace {

constexpr size_t kWindowBytes = 32 << 10;  // of a stream: so much may be under way
constexpr size_t kMessageBytes = 256;      // of one without data

struct StreamMessage {
  enum class Kind { kHeader, kPart, kCommit, kEnd };
  Kind kind = Kind::kPart;
  absl::Time arrives;
  v1::GetHeader header;
  uint32_t item = 0;
  uint64_t offset = 0;
  std::vector<uint8_t> data;
  uint64_t size_bytes = 0;  // of kCommit
};

// One direction of a stream: messages in order.
class Pipe {
 public:
  Pipe(SimNetwork* network, Flow* flow, bool to_server) : network_(network), flow_(flow), to_server_(to_server) {}

  void Send(StreamMessage message) {
    const std::optional<absl::Time> arrival =
        lost_ ? std::nullopt : network_->Send(flow_, to_server_, kMessageBytes + message.data.size(), last_arrival_);
    under_way_bytes_ += message.data.size();
    if (!arrival) {
      lost_ = true;  // and so is all that comes after it
      return;
    }
    message.arrives = last_arrival_ = *arrival;
    messages_.push_back(std::move(message));
    flow_->Changed();
  }
  bool full() const { return under_way_bytes_ >= kWindowBytes; }
  // When there is something to take; InfiniteFuture: not yet known.
  absl::Time next() const { return messages_.empty() ? absl::InfiniteFuture() : messages_.front().arrives; }
  StreamMessage Take() {
    StreamMessage message = std::move(messages_.front());
    messages_.pop_front();
    under_way_bytes_ -= message.data.size();
    flow_->Changed();
    return message;
  }

 private:
  SimNetwork* const network_;
  Flow* const flow_;
  const bool to_server_;
  bool lost_ = false;
  absl::Time last_arrival_ = absl::InfinitePast();
  size_t under_way_bytes_ = 0;
  std::deque<StreamMessage> messages_;
};

// What the two ends of a Get share.
struct GetCall {
  GetCall(SimNetwork* network, SimProcess* from, SimProcess* to)
      : flow(from, to), pipe(network, &flow, /*to_server=*/false) {}
  Flow flow;
  Pipe pipe;
  absl::StatusOr<v1::GetTrailer> end = absl::InternalError("");  // once kEnd has arrived
  bool reader_left = false;                                      // and the server has heard of it
};

// The server's end: cuts what the node sends into messages.
class SendingSink final : public GetSink {
 public:
  SendingSink(SimNetwork* network, GetCall* call, absl::Time deadline)
      : network_(network), call_(call), deadline_(deadline) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    Flush();
    StreamMessage message;
    message.kind = StreamMessage::Kind::kHeader;
    message.header = header;
    call_->pipe.Send(std::move(message));
    return WaitForRoom();
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t item, uint64_t offset, size_t size_bytes) override {
    Flush();
    if (absl::Status status = WaitForRoom(); !status.ok()) return status;
    part_.emplace();
    part_->item = item;
    part_->offset = offset;
    part_->data.resize(size_bytes);
    return absl::Span<uint8_t>(part_->data.data(), part_->data.size());
  }
  void End(absl::StatusOr<v1::GetTrailer> end) {
    Flush();
    call_->end = std::move(end);
    StreamMessage message;
    message.kind = StreamMessage::Kind::kEnd;
    call_->pipe.Send(std::move(message));
  }

 private:
  // Sends the part that was filled, in one piece or in two.
  void Flush() {
    if (!part_) return;
    StreamMessage part = *std::exchange(part_, std::nullopt);
    Scheduler* const scheduler = network_->scheduler();
    if (part.data.size() > 1 && scheduler->Chance(0.25)) {
      const size_t cut = 1 + scheduler->Below(part.data.size() - 1);
      StreamMessage head = part;
      head.data.resize(cut);
      part.offset += cut;
      part.data.erase(part.data.begin(), part.data.begin() + static_cast<ptrdiff_t>(cut));
      call_->pipe.Send(std::move(head));
    }
    call_->pipe.Send(std::move(part));
  }
  absl::Status WaitForRoom() {
    while (true) {
      if (call_->reader_left || call_->flow.to->dead()) return absl::CancelledError("the reader is gone");
      if (!call_->pipe.full()) return absl::OkStatus();
      if (network_->scheduler()->now() >= deadline_) return SimNetwork::Late();
      call_->flow.Wait("the reader to take parts", deadline_);
    }
  }

  SimNetwork* const network_;
  GetCall* const call_;
  const absl::Time deadline_;
  std::optional<StreamMessage> part_;
};

// What the two ends of a Put share.
struct PutCall {
  PutCall(SimNetwork* network, SimProcess* from, SimProcess* to)
      : flow(from, to), parts(network, &flow, /*to_server=*/true), answers(network, &flow, /*to_server=*/false) {}
  Flow flow;
  Pipe parts, answers;
  absl::Status reserved = absl::InternalError("");                    // once the first answer has arrived
  absl::StatusOr<v1::PutResponse> verdict = absl::InternalError("");  // once the second has, which may be the first
  bool writer_left = false;
};

class SimChannel final : public Channel {
 public:
  SimChannel(SimNetwork* network, SimProcess* self, std::string address)
      : network_(network), self_(self), address_(std::move(address)) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    return Unary("Match", &Channel::Match, request, deadline);
  }
  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    return Unary("Erase", &Channel::Erase, request, deadline);
  }
  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) override {
    return Unary("Release", &Channel::Release, request, deadline);
  }
  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    return Unary("ServerInfo", &Channel::ServerInfo, deadline);
  }
  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    return Unary("Explain", &Channel::Explain, request, deadline);
  }
  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) override {
    return Unary("Describe", &Channel::Describe, request, deadline);
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    return Unary("Report", &Channel::Report, request, deadline);
  }
  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    return Unary("GetView", &Channel::GetView, deadline);
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) override {
    return Unary("Adopt", &Channel::Adopt, request, deadline);
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) override {
    return Unary("Drain", &Channel::Drain, request, deadline);
  }
  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                    absl::Time deadline) override {
    return Ask<v1::PutProfileResponse>("PutProfile", deadline,
                                       [name, file = std::string(file)](Channel* channel, absl::Time until) {
                                         return channel->PutProfile(name, file, until);
                                       });
  }
  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) override {
    return Ask<std::string>("GetProfile", deadline, [request](Channel* channel, absl::Time until) {
      return channel->GetProfile(request, until);
    });
  }
  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override;
  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override;

 private:
  template <typename Response, typename Request>
  absl::StatusOr<Response> Unary(const char* what,
                                 absl::StatusOr<Response> (Channel::*method)(const Request&, absl::Time),
                                 const Request& request, absl::Time deadline) {
    return Ask<Response>(what, deadline, [method, request](Channel* channel, absl::Time until) {
      return (channel->*method)(request, until);
    });
  }
  template <typename Response>
  absl::StatusOr<Response> Unary(const char* what, absl::StatusOr<Response> (Channel::*method)(absl::Time),
                                 absl::Time deadline) {
    return Ask<Response>(what, deadline,
                         [method](Channel* channel, absl::Time until) { return (channel->*method)(until); });
  }
  template <typename Response, typename Act>
  absl::StatusOr<Response> Ask(const char* what, absl::Time deadline, Act act) {
    const absl::StatusOr<Peer> peer = Reach();
    if (!peer.ok()) return peer.status();
    const absl::Duration timeout = deadline - self_->host()->Now();
    SimHost* const host = peer->process->host();
    return network_->Call<Response>(
        self_, peer->process, self_->host()->TrueTime(deadline), what,
        [channel = peer->channel, timeout, host, act = std::move(act)] { return act(channel, host->Now() + timeout); });
  }

  struct Peer {
    SimProcess* process;
    Channel* channel;
  };
  // Unavailable after a way there and back, if nobody listens.
  absl::StatusOr<Peer> Reach() const {
    if (self_->dead()) return absl::UnavailableError("this process is dead");
    SimProcess* const process = network_->Find(address_);
    if (process == nullptr) {
      network_->scheduler()->Sleep(absl::Microseconds(400));
      return absl::UnavailableError("connection refused");
    }
    return Peer{process, network_->ChannelAt(process, address_)};
  }

  SimNetwork* const network_;
  SimProcess* const self_;
  const std::string address_;
};

// The reader's end: hands what has arrived to the sink.
absl::StatusOr<v1::GetTrailer> Receive(SimNetwork* network, GetCall* call, absl::Time deadline, GetSink* sink) {
  while (true) {
    const absl::Time now = network->scheduler()->now();
    if (call->pipe.next() <= now) {
      StreamMessage message = call->pipe.Take();
      if (message.kind == StreamMessage::Kind::kEnd) return std::move(call->end);
      if (message.kind == StreamMessage::Kind::kHeader) {
        if (absl::Status status = sink->OnHeader(message.header); !status.ok()) return status;
        continue;
      }
      network->Damage(call->flow.to, call->flow.from, message.data.data(), message.data.size());
      const absl::StatusOr<absl::Span<uint8_t>> place = sink->OnPart(message.item, message.offset, message.data.size());
      if (!place.ok()) return place.status();
      if (place->size() != message.data.size()) return absl::InternalError("a GetSink gave a place of another size");
      std::memcpy(place->data(), message.data.data(), message.data.size());
      continue;
    }
    if (const std::optional<absl::Status> broken = call->flow.Broken()) return *broken;
    if (now >= deadline) return SimNetwork::Late();
    call->flow.Wait("parts of a Get", std::min(deadline, call->pipe.next()));
  }
}

absl::StatusOr<v1::GetTrailer> SimChannel::Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) {
  const absl::StatusOr<Peer> peer = Reach();
  if (!peer.ok()) return peer.status();
  const auto call = std::make_shared<GetCall>(network_, self_, peer->process);
  const absl::Duration timeout = deadline - self_->host()->Now();
  const std::optional<absl::Time> arrival = network_->Send(&call->flow, /*to_server=*/true, kMessageBytes);
  if (arrival) {
    network_->Serve(peer->process, "Get",
                    [network = network_, call, request, timeout, at = *arrival, channel = peer->channel] {
                      Scheduler* const scheduler = network->scheduler();
                      if (scheduler->now() < at) scheduler->Sleep(at - scheduler->now());
                      if (call->flow.to->dead()) return;
                      SendingSink to_reader(network, call.get(), scheduler->now() + timeout);
                      to_reader.End(channel->Get(request, call->flow.to->host()->Now() + timeout, &to_reader));
                    });
  }
  absl::StatusOr<v1::GetTrailer> end = Receive(network_, call.get(), self_->host()->TrueTime(deadline), sink);
  // Told by a message of its own: if that is lost, the node goes on to fill the window.
  if (network_->Send(&call->flow, /*to_server=*/true, kMessageBytes)) {
    call->reader_left = true;
    call->flow.Changed();
  }
  return end;
}

// The node's end of a Put.
void ServePut(SimNetwork* network, PutCall* call, Channel* channel, const v1::PutReserve& reserve, absl::Time arrival,
              absl::Duration timeout) {
  Scheduler* const scheduler = network->scheduler();
  if (scheduler->now() < arrival) scheduler->Sleep(arrival - scheduler->now());
  if (call->flow.to->dead()) return;
  const absl::Time deadline = scheduler->now() + timeout;
  absl::StatusOr<std::unique_ptr<PutStream>> stream = channel->Put(reserve, call->flow.to->host()->Now() + timeout);
  const auto answer = [call] {
    StreamMessage message;
    message.kind = StreamMessage::Kind::kEnd;
    call->answers.Send(std::move(message));
  };
  call->reserved = stream.status();
  answer();
  if (!stream.ok()) return;
  while (!call->writer_left && !call->flow.to->dead() && scheduler->now() < deadline) {
    if (call->parts.next() > scheduler->now()) {
      call->flow.Wait("parts of a Put", std::min(deadline, call->parts.next()));
      continue;
    }
    StreamMessage message = call->parts.Take();
    if (message.kind == StreamMessage::Kind::kCommit) {
      call->verdict = (*stream)->Commit(message.size_bytes);
      return answer();
    }
    network->Damage(call->flow.from, call->flow.to, message.data.data(), message.data.size());
    const absl::Status written = (*stream)->Write(message.offset, message.data);
    if (!written.ok()) {
      call->verdict = written;
      return answer();
    }
  }
}

// The writer's end.
class SimPutStream final : public PutStream {
 public:
  SimPutStream(SimNetwork* network, std::shared_ptr<PutCall> call, absl::Time deadline)
      : network_(network), call_(std::move(call)), deadline_(deadline) {}
  ~SimPutStream() override {
    if (!network_->Send(&call_->flow, /*to_server=*/true, kMessageBytes)) return;
    call_->writer_left = true;
    call_->flow.Changed();
  }

  // Waits for the node's next answer.
  absl::Status AwaitAnswer(const char* what) {
    while (true) {
      const absl::Time now = network_->scheduler()->now();
      if (call_->answers.next() <= now) {
        call_->answers.Take();
        return absl::OkStatus();
      }
      if (const std::optional<absl::Status> broken = call_->flow.Broken()) return *broken;
      if (now >= deadline_) return SimNetwork::Late();
      call_->flow.Wait(what, std::min(deadline_, call_->answers.next()));
    }
  }
  absl::Status AwaitReserved() {
    if (absl::Status status = AwaitAnswer("a reservation"); !status.ok()) return status;
    return call_->reserved;
  }

  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override {
    Scheduler* const scheduler = network_->scheduler();
    while (!bytes.empty()) {
      if (absl::Status status = WaitForRoom(); !status.ok()) return status;
      const bool whole = bytes.size() == 1 || scheduler->Chance(0.75);
      const size_t size = std::min(kMaxPartBytes, whole ? bytes.size() : 1 + scheduler->Below(bytes.size() - 1));
      StreamMessage part;
      part.offset = offset;
      part.data.assign(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
      call_->parts.Send(std::move(part));
      bytes.remove_prefix(size);
      offset += size;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override {
    StreamMessage commit;
    commit.kind = StreamMessage::Kind::kCommit;
    commit.size_bytes = size_bytes;
    call_->parts.Send(std::move(commit));
    if (absl::Status status = AwaitAnswer("the end of a Put"); !status.ok()) return status;
    return std::move(call_->verdict);
  }

 private:
  absl::Status WaitForRoom() {
    while (true) {
      const absl::Time now = network_->scheduler()->now();
      if (call_->answers.next() <= now) {  // it ended early
        return call_->verdict.ok() ? absl::InternalError("the node ended a Put before its commit")
                                   : call_->verdict.status();
      }
      if (const std::optional<absl::Status> broken = call_->flow.Broken()) return *broken;
      if (!call_->parts.full()) return absl::OkStatus();
      if (now >= deadline_) return SimNetwork::Late();
      call_->flow.Wait("the node to take parts", std::min(deadline_, call_->answers.next()));
    }
  }

  SimNetwork* const network_;
  const std::shared_ptr<PutCall> call_;
  const absl::Time deadline_;  // the scheduler's
};

absl::StatusOr<std::unique_ptr<PutStream>> SimChannel::Put(const v1::PutReserve& reserve, absl::Time deadline) {
  const absl::StatusOr<Peer> peer = Reach();
  if (!peer.ok()) return peer.status();
  const auto call = std::make_shared<PutCall>(network_, self_, peer->process);
  const absl::Duration timeout = deadline - self_->host()->Now();
  const std::optional<absl::Time> arrival = network_->Send(&call->flow, /*to_server=*/true, kMessageBytes);
  if (arrival) {
    network_->Serve(peer->process, "Put",
                    [network = network_, call, reserve, timeout, at = *arrival, channel = peer->channel] {
                      ServePut(network, call.get(), channel, reserve, at, timeout);
                    });
  }
  auto stream = std::make_unique<SimPutStream>(network_, call, self_->host()->TrueTime(deadline));
  if (absl::Status status = stream->AwaitReserved(); !status.ok()) return status;
  return stream;
}

class SimTransport final : public Transport {
 public:
  SimTransport(SimNetwork* network, SimProcess* process) : network_(network), process_(process) {}
  std::unique_ptr<Channel> Connect(const std::string& address) override {
    return std::make_unique<SimChannel>(network_, process_, address);
  }

 private:
  SimNetwork* const network_;
  SimProcess* const process_;
};

}  // namespace

std::unique_ptr<Transport> NewSimTransport(SimNetwork* network, SimProcess* process) {
  return std::make_unique<SimTransport>(network, process);
}

}  // namespace kvist::simulation
