// Goal: a node that loses its lease while a reader reads goes on sending, and comes back as a new incarnation meanwhile.
// Method: a real node on loopback, registered in a real etcd whose lease is revoked in the middle of a Get that more than
// fills its connection.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/services/testing/etcd_process.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using ::testing::HasSubstr;
using testing::TestKey;

// Takes one part, waits until it is let go, and compares everything with the block that was put.
class WaitingSink : public GetSink {
 public:
  explicit WaitingSink(const std::string& block) : block_(block) {}

  absl::Status OnHeader(const v1::GetHeader& header) override {
    Compare();
    hits_ += header.miss() == v1::MISS_REASON_UNSPECIFIED;
    return absl::OkStatus();
  }
  absl::StatusOr<absl::Span<uint8_t>> OnPart(uint32_t, uint64_t offset, size_t size_bytes) override {
    Compare();
    std::unique_lock lock(mutex_);
    waiting_ = true;
    changed_.wait(lock, [this] { return go_; });
    offset_ = offset;
    place_.resize(size_bytes);
    return absl::MakeSpan(place_);
  }
  bool waiting() {
    std::lock_guard lock(mutex_);
    return waiting_;
  }
  void Go() {
    std::lock_guard lock(mutex_);
    go_ = true;
    changed_.notify_all();
  }
  // What the last part brought is known to be there once something comes after it.
  void Compare() {
    EXPECT_EQ(block_.compare(offset_, place_.size(), reinterpret_cast<const char*>(place_.data()), place_.size()), 0);
    bytes_ += place_.size();
    place_.clear();
  }
  size_t hits() const { return hits_; }
  uint64_t bytes() const { return bytes_; }

 private:
  const std::string& block_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool waiting_ = false, go_ = false;
  std::vector<uint8_t> place_;
  uint64_t offset_ = 0, bytes_ = 0;
  size_t hits_ = 0;
};

TEST(LeaseLossTest, AGetUnderWayDeliversAllWhileTheNodeRegistersAnew) {
  testing::EtcdProcess etcd;
  NodeConfig config = testing::TestConfig(16 << 20);
  config.id.value = "n0";
  config.etcd.endpoints = {etcd.client_address().ToString()};
  config.etcd.lease = absl::Seconds(2);
  config.etcd.call_deadline = absl::Seconds(1);
  config.admission.read_stall = absl::Minutes(1);
  const auto node = testing::StartNode(config);
  ASSERT_TRUE(testing::WaitFor([&] { return testing::HttpGet(node->http_address(), "/readyz") == "ready\n"; }, 30));
  const auto transport = NewGrpcTransport();
  const auto channel = transport->Connect(node->data_address().ToString());
  const std::string block = testing::TestBlock(TestKey(1), 1000, 1);  // 4 MB
  ASSERT_TRUE(testing::PutBlock(channel.get(), TestKey(1), block).ok());
  const auto incarnation = [&] {
    const auto answer = transport->Connect(node->data_address().ToString())->GetView(testing::In(5));
    return answer.ok() && answer->view().nodes_size() == 1 ? answer->view().nodes(0).incarnation() : 0;
  };
  const uint64_t before = incarnation();
  ASSERT_GT(before, 0u);

  constexpr size_t kItems = 16;
  WaitingSink sink(block);
  absl::StatusOr<v1::GetTrailer> trailer = absl::UnknownError("");
  std::thread reader([&] {
    trailer = channel->Get(testing::GetRequestFor(std::vector<Key>(kItems, TestKey(1))), testing::In(60), &sink);
  });
  EXPECT_TRUE(testing::WaitFor([&] { return sink.waiting(); }));
  const std::string record = etcd.Etcdctl({"get", "/kvist/kvist/nodes/n0", "--write-out=json"}).output;
  const nlohmann::json listed = nlohmann::json::parse(record, nullptr, false);
  if (listed.contains("kvs") && listed["kvs"][0].contains("lease")) {
    const uint64_t lease = listed["kvs"][0]["lease"];
    const testing::Ended revoked = etcd.Etcdctl({"lease", "revoke", absl::StrCat(absl::Hex(lease))});
    EXPECT_THAT(revoked.output, HasSubstr("revoked")) << revoked.errors;
  } else {
    ADD_FAILURE() << record;
  }
  EXPECT_TRUE(testing::WaitFor([&] { return incarnation() > before; }, 30));
  EXPECT_THAT(testing::HttpGet(node->http_address(), "/metrics"), HasSubstr("\nkvist_registrations_total 2"));
  sink.Go();
  reader.join();
  ASSERT_TRUE(trailer.ok()) << trailer.status();
  sink.Compare();
  EXPECT_EQ(sink.hits(), kItems);
  EXPECT_EQ(sink.bytes(), kItems * block.size());
  EXPECT_EQ(trailer->sent_bytes(), kItems * block.size());
}

}  // namespace
}  // namespace kvist
