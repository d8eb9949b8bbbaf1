// Nodes in memory behind Channels, for the client's own logic: each can be down, silent, full, or lie. The same logic
// runs against real servers in client_loopback_test.
#ifndef KVIST_TESTS_SERVICES_WORKER_FAKE_CLUSTER_H_
#define KVIST_TESTS_SERVICES_WORKER_FAKE_CLUSTER_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "services/cluster/records.h"
#include "services/transport/retry_hint.h"
#include "services/transport/transport.h"
#include "services/worker/client.h"

namespace kvist {

struct FakeNode {
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  std::map<std::string, std::string> blocks;    // key bytes -> block bytes
  std::map<std::string, v1::MissReason> gone;   // why a key is no longer there
  std::map<std::string, std::string> profiles;  // digest -> what the node hands out
  absl::Status profile_fault;                   // what PutProfile gets, if not ok
  std::set<uint64_t> leases;
  std::set<std::string> reserved;
  std::vector<uint64_t> reservations;                        // sizes asked for, in order
  int refuse_reads = 0;                                      // likewise
  int refuse_puts = 0, drop_commits = 0, keep_reserved = 0;  // how many of the next calls
  int damage_commits = 0;                                    // likewise: what came is no block
  uint64_t next_lease = 1, view = 1;
  bool silent = false;       // answers nothing until the deadline
  bool hold_gets = false;    // Gets only
  bool draining = false;     // refuses every Put
  int leaving_refusals = 0;  // that it did so
  int release_calls = 0;
  std::map<std::string, int> calls;  // by method, those that were never answered included
  size_t part_bytes = 1000;
  uint16_t port = 1;   // at any other, nobody listens
  absl::Status fault;  // what every call gets, if not ok
  std::vector<v1::DrainRequest> drain_requests;
  std::vector<v1::DrainResponse> drain_answers;         // one a call; then the node is gone
  v1::View cluster;                                     // what GetView gives; absent while its number is 0
  v1::Load load;                                        // in replies
  std::map<std::string, std::vector<std::string>> hot;  // head -> nodes that hold copies
  std::optional<absl::Duration> retry_hint;             // of refused Puts
  std::vector<v1::PutReserve> reserves;
  std::vector<v1::EraseRequest> erases;
  std::vector<absl::Time> get_deadlines;
  std::vector<v1::AdoptRequest> adoptions;
  std::vector<v1::DescribeRequest> described;
  std::vector<v1::ReportRequest> reported;
  std::map<std::string, v1::BlockFate> fates;  // of keys that are not stored; of those that are, when they expire
  std::vector<v1::NearNamespace> near;
  // Set before use.
  bool down = false;
  std::function<void(v1::GetHeader*)> change_header;
  std::function<void(uint32_t* item, uint64_t* offset)> change_part;
  std::function<void()> after_match;
  absl::Status get_status;  // returned instead of the trailer

  void SetSilent(bool is_silent) {
    std::lock_guard lock(mutex);
    silent = is_silent;
    changed.notify_all();
  }
  void HoldGets(bool hold) {
    std::lock_guard lock(mutex);
    hold_gets = hold;
    changed.notify_all();
  }
  int Calls(const std::string& method) {
    std::lock_guard lock(mutex);
    return calls[method];
  }
  void WaitFor(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex);
    changed.wait(lock, condition);
  }
};

class FakeChannel final : public Channel {
 public:
  FakeChannel(FakeNode* node, uint16_t port) : node_(node), port_(port) {}

  absl::StatusOr<v1::MatchResponse> Match(const v1::MatchRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach("Match", deadline); !status.ok()) return status;
    if (absl::Status status = RefuseRead(); !status.ok()) return status;
    v1::MatchResponse response;
    {
      std::lock_guard lock(node_->mutex);
      response.set_view(node_->view);
      for (const v1::Chain& chain : request.chains())
        *response.add_chains() = MatchOne(chain.keys(), request.lease_ms());
      if (request.view() < node_->cluster.number()) *response.mutable_newer_view() = node_->cluster;
      *response.mutable_load() = node_->load;
      AddHot(request, &response);
    }
    if (node_->after_match) node_->after_match();
    return response;
  }

  absl::StatusOr<v1::EraseResponse> Erase(const v1::EraseRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach("Erase", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    v1::EraseResponse response;
    response.set_view(node_->view);
    node_->erases.push_back(request);
    for (const std::string& key : Split(request.keys())) response.add_erased(node_->blocks.erase(key) > 0);
    return response;
  }

  absl::StatusOr<v1::ReleaseResponse> Release(const v1::ReleaseRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach("Release", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    for (const uint64_t lease : request.leases()) node_->leases.erase(lease);
    ++node_->release_calls;
    node_->changed.notify_all();
    return v1::ReleaseResponse();
  }

  absl::StatusOr<v1::ServerInfoResponse> ServerInfo(absl::Time deadline) override {
    if (absl::Status status = Reach("ServerInfo", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    v1::ServerInfoResponse response;
    response.set_version("fake");
    response.mutable_store()->set_blocks(node_->blocks.size());
    return response;
  }

  absl::StatusOr<v1::ExplainResponse> Explain(const v1::ExplainRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach("Explain", deadline); !status.ok()) return status;
    if (absl::Status status = RefuseRead(); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    v1::ExplainResponse response;
    for (const std::string& key : Split(request.keys())) {
      v1::BlockFate& fate = *response.add_fates();
      const auto told = node_->fates.find(key);
      const auto stored = node_->blocks.find(key);
      if (stored != node_->blocks.end()) {
        fate.set_tier(v1::TIER_HOST);
        fate.set_size_bytes(stored->second.size());
        if (told != node_->fates.end()) fate.set_expires_unix_ms(told->second.expires_unix_ms());
      } else if (told != node_->fates.end()) {
        fate = told->second;
      } else {
        fate.set_miss(ReasonOf(key));
      }
    }
    if (!request.namespace_text().empty()) response.mutable_near()->Assign(node_->near.begin(), node_->near.end());
    response.set_view(node_->view);
    return response;
  }

  absl::StatusOr<v1::DescribeResponse> Describe(const v1::DescribeRequest& request, absl::Time deadline) override {
    return Keep<v1::DescribeResponse>("Describe", deadline, request, &node_->described);
  }
  absl::StatusOr<v1::ReportResponse> Report(const v1::ReportRequest& request, absl::Time deadline) override {
    return Keep<v1::ReportResponse>("Report", deadline, request, &node_->reported);
  }
  absl::StatusOr<v1::AdoptResponse> Adopt(const v1::AdoptRequest& request, absl::Time deadline) override {
    return Keep<v1::AdoptResponse>("Adopt", deadline, request, &node_->adoptions);
  }

  absl::StatusOr<v1::GetViewResponse> GetView(absl::Time deadline) override {
    if (absl::Status status = Reach("GetView", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    v1::GetViewResponse response;
    if (node_->cluster.number() > 0) *response.mutable_view() = node_->cluster;
    return response;
  }

  absl::StatusOr<v1::PutProfileResponse> PutProfile(const v1::ProfileName& name, absl::string_view file,
                                                    absl::Time deadline) override {
    if (absl::Status status = Reach("PutProfile", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    if (!node_->profile_fault.ok()) {
      return absl::Status(node_->profile_fault.code(), node_->profile_fault.message());
    }
    v1::PutProfileResponse response;
    response.set_kept(node_->profiles.emplace(name.digest(), file).second);
    return response;
  }
  absl::StatusOr<std::string> GetProfile(const v1::GetProfileRequest& request, absl::Time deadline) override {
    const absl::Status reached = Reach("GetProfile", deadline);
    std::lock_guard lock(node_->mutex);
    node_->changed.notify_all();
    if (!reached.ok()) return reached;
    const auto found = node_->profiles.find(request.digest());
    return found == node_->profiles.end() ? "" : found->second;
  }
  absl::StatusOr<v1::DrainResponse> Drain(const v1::DrainRequest& request, absl::Time deadline) override {
    if (absl::Status status = Reach("Drain", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    node_->drain_requests.push_back(request);
    if (node_->drain_answers.empty()) return absl::UnavailableError("connection refused");  // it has left and ended
    const v1::DrainResponse answer = node_->drain_answers.front();
    node_->drain_answers.erase(node_->drain_answers.begin());
    return answer;
  }

  absl::StatusOr<v1::GetTrailer> Get(const v1::GetRequest& request, absl::Time deadline, GetSink* sink) override {
    if (absl::Status status = Reach("Get", deadline); !status.ok()) return status;
    {
      std::lock_guard lock(node_->mutex);
      node_->get_deadlines.push_back(deadline);
    }
    if (absl::Status status = Hold(deadline); !status.ok()) return status;
    if (absl::Status status = RefuseRead(); !status.ok()) return status;
    v1::GetTrailer trailer;
    {
      std::lock_guard lock(node_->mutex);
      trailer.set_view(node_->view);
      *trailer.mutable_load() = node_->load;
    }
    const std::vector<std::string> keys = Split(request.keys());
    for (uint32_t item = 0; item < keys.size(); ++item) {
      v1::GetHeader header;
      header.set_item(item);
      const std::string bytes = Find(keys[item], &header);
      if (node_->change_header) node_->change_header(&header);
      if (absl::Status status = sink->OnHeader(header); !status.ok()) return status;
      if (absl::Status status = SendParts(item, bytes, sink); !status.ok()) return status;
    }
    if (!node_->get_status.ok()) return absl::Status(node_->get_status.code(), node_->get_status.message());
    return trailer;
  }

  absl::StatusOr<std::unique_ptr<PutStream>> Put(const v1::PutReserve& reserve, absl::Time deadline) override {
    if (absl::Status status = Reach("Put", deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    node_->reservations.push_back(reserve.size_bytes());
    node_->reserves.push_back(reserve);
    if (node_->draining) {
      ++node_->leaving_refusals;
      node_->changed.notify_all();
      return absl::FailedPreconditionError("the node is draining");
    }
    if (node_->refuse_puts > 0) {
      --node_->refuse_puts;
      const absl::Status full = absl::ResourceExhaustedError("the node is full");
      return node_->retry_hint ? WithRetryHint(full, *node_->retry_hint) : full;
    }
    if (node_->blocks.count(reserve.key()) > 0 || !node_->reserved.insert(reserve.key()).second) {
      return absl::AlreadyExistsError("the node has this block, or another is writing it");
    }
    return std::make_unique<Stream>(node_, reserve);
  }

 private:
  class Stream final : public PutStream {
   public:
    Stream(FakeNode* node, const v1::PutReserve& reserve)
        : node_(node), reserve_(reserve), bytes_(reserve.size_bytes(), '\0') {}
    ~Stream() override {
      std::lock_guard lock(node_->mutex);
      if (node_->keep_reserved > 0) {
        --node_->keep_reserved;  // a node that has not yet seen that the stream is gone; the next probe frees it
        return;
      }
      node_->reserved.erase(reserve_.key());
    }
    absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) override {
      if (offset + bytes.size() > bytes_.size()) return absl::OutOfRangeError("more than reserved");
      std::memcpy(bytes_.data() + offset, bytes.data(), bytes.size());
      return absl::OkStatus();
    }
    absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) override {
      std::lock_guard lock(node_->mutex);
      if (node_->drop_commits > 0) {
        --node_->drop_commits;
        return absl::UnavailableError("the connection broke");
      }
      if (node_->damage_commits > 0) {
        --node_->damage_commits;
        return absl::InvalidArgumentError("not a block");
      }
      node_->blocks[reserve_.key()] = bytes_.substr(0, size_bytes);
      v1::PutResponse response;
      response.set_stored(true);
      response.set_view(node_->view);
      return response;
    }

   private:
    FakeNode* const node_;
    const v1::PutReserve reserve_;
    std::string bytes_;
  };

  static absl::Status Never() { return absl::UnimplementedError("not of this fake"); }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Keep(const char* method, absl::Time deadline, const Request& request,
                                std::vector<Request>* kept) {
    if (absl::Status status = Reach(method, deadline); !status.ok()) return status;
    std::lock_guard lock(node_->mutex);
    kept->push_back(request);
    node_->changed.notify_all();
    return Response();
  }

  void AddHot(const v1::MatchRequest& request, v1::MatchResponse* response) {
    for (const v1::Chain& chain : request.chains()) {
      for (const std::string& key : Split(chain.keys())) {
        const auto hot = node_->hot.find(key);
        if (hot == node_->hot.end()) continue;
        v1::HotSegment& segment = *response->add_hot();
        segment.set_head(key);
        for (const std::string& holder : hot->second) segment.add_nodes(holder);
      }
    }
  }

  absl::Status RefuseRead() {
    std::lock_guard lock(node_->mutex);
    if (node_->refuse_reads == 0) return absl::OkStatus();
    --node_->refuse_reads;
    node_->changed.notify_all();
    const absl::Status full = absl::ResourceExhaustedError("the node is full");
    return node_->retry_hint ? WithRetryHint(full, *node_->retry_hint) : full;
  }

  absl::Status Hold(absl::Time deadline) {
    std::unique_lock lock(node_->mutex);
    if (!node_->hold_gets) return absl::OkStatus();
    if (node_->changed.wait_until(lock, absl::ToChronoTime(deadline), [this] { return !node_->hold_gets; })) {
      return absl::OkStatus();
    }
    return absl::DeadlineExceededError("deadline exceeded");
  }

  absl::Status Reach(const char* method, absl::Time deadline) {
    std::unique_lock lock(node_->mutex);
    ++node_->calls[method];
    node_->changed.notify_all();
    if (node_->down || port_ != node_->port) return absl::UnavailableError("connection refused");
    if (!node_->fault.ok()) return absl::Status(node_->fault.code(), node_->fault.message());
    if (!node_->silent) return absl::OkStatus();
    node_->changed.wait_until(lock, absl::ToChronoTime(deadline), [this] { return !node_->silent; });
    return absl::DeadlineExceededError("deadline exceeded");
  }

  v1::ChainMatch MatchOne(const std::string& chain, uint32_t lease_ms) {
    v1::ChainMatch match;
    for (const std::string& key : Split(chain)) {
      if (node_->blocks.count(key) == 0) {
        match.set_first_miss(ReasonOf(key));
        node_->reserved.erase(key);  // see ~Stream
        break;
      }
      match.set_hits(match.hits() + 1);
    }
    if (lease_ms > 0 && match.hits() > 0) {
      match.set_lease(node_->next_lease++);
      match.set_lease_ms(lease_ms);
      node_->leases.insert(match.lease());
    }
    return match;
  }

  v1::MissReason ReasonOf(const std::string& key) {
    const auto gone = node_->gone.find(key);
    return gone == node_->gone.end() ? v1::MISS_REASON_NEVER_STORED : gone->second;
  }

  std::string Find(const std::string& key, v1::GetHeader* header) {
    std::lock_guard lock(node_->mutex);
    const auto found = node_->blocks.find(key);
    if (found == node_->blocks.end()) {
      header->set_miss(ReasonOf(key));
      return "";
    }
    header->set_block_bytes(found->second.size());
    header->set_sent_bytes(found->second.size());
    return found->second;
  }

  absl::Status SendParts(uint32_t item, const std::string& bytes, GetSink* sink) {
    for (size_t sent = 0; sent < bytes.size(); sent += node_->part_bytes) {
      const size_t size_bytes = std::min(node_->part_bytes, bytes.size() - sent);
      uint64_t offset = sent;
      if (node_->change_part) node_->change_part(&item, &offset);
      const absl::StatusOr<absl::Span<uint8_t>> place = sink->OnPart(item, offset, size_bytes);
      if (!place.ok()) return place.status();
      std::memcpy(place->data(), bytes.data() + sent, size_bytes);
    }
    return absl::OkStatus();
  }

  static std::vector<std::string> Split(const std::string& keys) {
    std::vector<std::string> split;
    for (size_t i = 0; i < keys.size(); i += Key::kBytes) split.push_back(keys.substr(i, Key::kBytes));
    return split;
  }

  FakeNode* const node_;
  const uint16_t port_;
};

// Nodes "n0", "n1", ... at addresses "n0:1", "n1:1", ...
class FakeCluster final : public Transport {
 public:
  explicit FakeCluster(size_t nodes) {
    for (size_t i = 0; i < nodes; ++i) nodes_.push_back(std::make_unique<FakeNode>());
  }

  std::unique_ptr<Channel> Connect(const std::string& address) override {
    ++connections;
    const size_t colon = address.find(':');
    return std::make_unique<FakeChannel>(&node(std::stoul(address.substr(1, colon - 1))),
                                         static_cast<uint16_t>(std::stoul(address.substr(colon + 1))));
  }

  FakeNode& node(size_t i) { return *nodes_.at(i); }

  View view() const {
    View view{ViewNumber{1}, {}};
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const std::string id = "n" + std::to_string(i);
      Node node;
      node.id.value = id;
      node.address = Address{id, nodes_[i]->port};
      node.capacity_bytes = 1 << 20;
      view.nodes.push_back(node);
    }
    return view;
  }

  // Every node learns this view.
  void Publish(const View& view) {
    for (const std::unique_ptr<FakeNode>& node : nodes_) {
      std::lock_guard lock(node->mutex);
      node->cluster = ViewToWire(view);
      node->view = view.number.value;
    }
  }

  std::atomic<int> connections = 0;  // that were made

 private:
  std::vector<std::unique_ptr<FakeNode>> nodes_;
};

}  // namespace kvist

#endif  // KVIST_TESTS_SERVICES_WORKER_FAKE_CLUSTER_H_
