// Goal: the HTTP port answers /metrics, /healthz and /readyz, and says so when its port is taken.
// Method: a real server on a port chosen by the system and a real HTTP client.
#include "services/node/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>

namespace kvist {
namespace {

using testing::HasSubstr;

HttpOptions Options(const std::string& address) {
  HttpOptions options;
  options.address = address;
  options.metrics = options.why_not_ready = [] { return std::string(); };
  return options;
}

TEST(HttpServerTest, ServesMetricsHealthAndReadiness) {
  std::atomic<bool> ready = false;
  HttpOptions options = Options("127.0.0.1:0");
  options.metrics = [] { return std::string("kvist_blocks 3\n"); };
  options.why_not_ready = [&] { return std::string(ready ? "" : "etcd does not answer"); };
  auto server = HttpServer::Start(std::move(options));
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("http://" + (*server)->address());
  auto metrics = client.Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_EQ(metrics->body, "kvist_blocks 3\n");
  EXPECT_THAT(metrics->get_header_value("Content-Type"), HasSubstr("version=0.0.4"));
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client.Get("/readyz")->status, 503);
  EXPECT_EQ(client.Get("/readyz")->body, "not ready: etcd does not answer\n");
  ready = true;
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  EXPECT_EQ(client.Get("/nothing")->status, 404);
}

TEST(HttpServerTest, FlipsExistOnlyWithTestFaults) {
  auto without = HttpServer::Start(Options("127.0.0.1:0"));
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_EQ(httplib::Client("http://" + (*without)->address()).Post("/test/flip?blocks=3&seed=1")->status, 404);
  HttpOptions options = Options("127.0.0.1:0");
  options.flip = [](const HttpOptions::Parameter& parameter) -> absl::StatusOr<std::string> {
    if (parameter("blocks").empty()) return absl::InvalidArgumentError("how many?");
    return parameter("blocks") + parameter("absent");
  };
  auto with = HttpServer::Start(std::move(options));
  ASSERT_TRUE(with.ok()) << with.status();
  httplib::Client client("http://" + (*with)->address());
  EXPECT_EQ(client.Post("/test/flip?blocks=3&seed=1")->body, "3");
  EXPECT_EQ(client.Post("/test/flip")->status, 400);
  EXPECT_EQ(client.Post("/test/flip")->body, "how many?\n");
  EXPECT_EQ(client.Get("/test/flip?blocks=3")->status, 404);
}

TEST(HttpServerTest, ATakenPortIsNamed) {
  auto first = HttpServer::Start(Options("127.0.0.1:0"));
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = HttpServer::Start(Options((*first)->address()));
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("cannot listen on HTTP address " + (*first)->address()));
}

TEST(HttpServerTest, AnAddressWithoutAPortIsRefused) {
  auto server = HttpServer::Start(Options("localhost"));
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("'localhost' is not host:port"));
}

}  // namespace
}  // namespace kvist
