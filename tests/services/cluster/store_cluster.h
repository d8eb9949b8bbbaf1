// Nodes that are no more than a HostTier and a Replicator, reaching each other by channels that do what a test says:
// what nodes do among themselves without the node around it.
#ifndef KVIST_TESTS_SERVICES_CLUSTER_STORE_CLUSTER_H_
#define KVIST_TESTS_SERVICES_CLUSTER_STORE_CLUSTER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cachestore/host_tier.h"
#include "services/cluster/replicator.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist::testing {

inline constexpr char kNamespace[] = "test namespace..";  // 16 bytes

// Keys are numbered; a block starts with its namespace and its key, and ends in a digest of the rest.
Key NumberedKey(uint64_t number);
std::string NumberedBlock(const Key& key, size_t size_bytes, char fill = 'x',
                          const std::string& namespace_digest = kNamespace);
BlockReading TestReading();

// How a node treats its peers' calls.
struct Faults {
  bool down = false;                   // Unavailable at once
  bool stuck = false;                  // no answer until the deadline, or until it is not stuck any more
  std::optional<absl::Duration> full;  // Puts are ResourceExhausted with this hint
  bool draining = false;               // takes no new blocks
  int damaged_gets = 0;                // so many Gets bring a bit that is flipped
  std::function<void()> on_put;        // called at each Put, before anything else
};

class StoreCluster final : public Transport {
 public:
  // Nodes n0, n1, ..., serving, view 1. `tune` changes the options of their replicators.
  StoreCluster(size_t nodes, uint64_t capacity_bytes, std::function<void(ReplicatorOptions&)> tune = nullptr);
  ~StoreCluster() override;

  std::unique_ptr<Channel> Connect(const std::string& address) override;

  std::shared_ptr<const View> view() const;
  void SetView(View view);  // its number is the next
  // Kills the node: its blocks are lost, its calls fail. The view still names it.
  void Kill(size_t node);
  // An empty node of this id runs again, in the same view entry but for its incarnation.
  void Restart(size_t node);
  // The view without this node.
  void Leave(size_t node);

  HostTier& store(size_t node) { return *nodes_[node]->store; }
  Replicator& replicator(size_t node) { return *nodes_[node]->replicator; }
  size_t size() const { return nodes_.size(); }
  NodeId id(size_t node) const { return NodeId{"n" + std::to_string(node)}; }
  size_t NodeOf(const NodeId& id) const { return static_cast<size_t>(std::stoul(id.value.substr(1))); }
  // Positions of the nodes that should hold this segment, the owner first.
  std::vector<size_t> Holders(const Key& segment, size_t replicas) const;

  void Set(size_t node, Faults faults);
  uint64_t puts(size_t node) const;   // Puts that the node was asked for
  uint64_t parts(size_t node) const;  // bytes of Puts that it was sent

  // Stores a block, and tells the node's replicator unless `copy`.
  absl::Status Put(size_t node, const Key& key, const Key& segment, uint32_t replicas, const std::string& block,
                   bool copy = false);
  absl::Status Put(size_t node, const Key& key, const BlockTraits& traits, uint32_t replicas, const std::string& block,
                   bool copy = false);
  bool Has(size_t node, const Key& key);
  std::string Bytes(size_t node, const Key& key);
  bool AllIdle();  // all that live

 private:
  friend class StoreChannel;
  friend class StorePut;
  struct TestNode {
    bool alive = true;
    std::unique_ptr<HostTier> store;
    std::vector<std::unique_ptr<Replicator>> lives;  // calls that are late may still use an earlier one
    std::atomic<Replicator*> replicator{nullptr};    // the last
    Faults faults;
    uint64_t puts = 0, put_bytes = 0;
  };
  void Start(size_t node);

  const uint64_t capacity_bytes_;
  const std::function<void(ReplicatorOptions&)> tune_;
  const std::unique_ptr<Condition> faults_changed_;
  mutable std::mutex mutex_;
  std::shared_ptr<const View> view_;
  std::vector<std::unique_ptr<TestNode>> nodes_;
};

// Waits until it holds; false if it does not within `limit`.
bool Holds(const std::function<bool()>& condition, absl::Duration limit = absl::Seconds(20));

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_CLUSTER_STORE_CLUSTER_H_
