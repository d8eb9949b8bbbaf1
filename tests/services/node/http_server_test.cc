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

TEST(HttpServerTest, ServesMetricsHealthAndReadiness) {
  std::atomic<bool> ready = false;
  auto server = HttpServer::Start(
      "127.0.0.1:0", [] { return std::string("kvist_blocks 3\n"); }, [&] { return ready.load(); });
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("http://" + (*server)->address());
  auto metrics = client.Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_EQ(metrics->body, "kvist_blocks 3\n");
  EXPECT_THAT(metrics->get_header_value("Content-Type"), HasSubstr("version=0.0.4"));
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client.Get("/readyz")->status, 503);
  ready = true;
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  EXPECT_EQ(client.Get("/nothing")->status, 404);
}

TEST(HttpServerTest, ATakenPortIsNamed) {
  const auto nothing = [] { return std::string(); };
  auto first = HttpServer::Start("127.0.0.1:0", nothing, [] { return true; });
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = HttpServer::Start((*first)->address(), nothing, [] { return true; });
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("cannot listen on HTTP address " + (*first)->address()));
}

TEST(HttpServerTest, AnAddressWithoutAPortIsRefused) {
  auto server = HttpServer::Start(
      "localhost", [] { return std::string(); }, [] { return true; });
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("'localhost' is not host:port"));
}

}  // namespace
}  // namespace kvist
