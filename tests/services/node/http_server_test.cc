// Goal: the HTTP port answers /metrics, /healthz and /readyz, and says so when its port is taken.
// Method: a real server on a port chosen by the system and a real HTTP client.
#include "services/node/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

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

std::vector<int> ConnectSilently(const std::string& address, int count) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  std::vector<int> silent;
  for (int i = 0; i < count; ++i) {
    silent.push_back(socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_EQ(connect(silent.back(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  }
  return silent;
}

// False: the server has closed it.
bool IsOpen(int connection) {
  pollfd wait{connection, POLLIN, 0};
  return poll(&wait, 1, 0) == 0;
}

// That the answers come before any silent client is closed is what shows that they hold nobody up. A slow machine may
// close them first all the same, so there are several rounds; if silent clients held the threads, none would succeed.
TEST(HttpServerTest, ClientsThatSayNothingAndOnesThatStayHoldNobodyUp) {
  auto server = HttpServer::Start(Options("127.0.0.1:0"));
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string address = (*server)->address();
  std::vector<std::unique_ptr<httplib::Client>> staying;
  for (int i = 0; i < 10; ++i) {
    staying.push_back(std::make_unique<httplib::Client>("http://" + address));
    staying.back()->set_keep_alive(true);
    ASSERT_TRUE(staying.back()->Get("/healthz"));
  }
  bool answered_first = false;
  for (int round = 0; round < 10 && !answered_first; ++round) {
    const std::vector<int> silent = ConnectSilently(address, 6);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(httplib::Client("http://" + address).Get("/readyz")->status, 200);
    answered_first = std::all_of(silent.begin(), silent.end(), IsOpen);
    char byte;
    for (const int connection : silent) {
      EXPECT_EQ(read(connection, &byte, 1), 0) << "closed in the end";
      close(connection);
    }
  }
  EXPECT_TRUE(answered_first);
}

TEST(HttpServerTest, ServesOnIpv6) {
  auto server = HttpServer::Start(Options("[::1]:0"));
  if (!server.ok()) {
    const int plain = socket(AF_INET6, SOCK_STREAM, 0);
    sockaddr_in6 loopback{};
    loopback.sin6_family = AF_INET6;
    loopback.sin6_addr = in6addr_loopback;
    const bool here = bind(plain, reinterpret_cast<const sockaddr*>(&loopback), sizeof(loopback)) == 0;
    close(plain);
    if (!here) GTEST_SKIP() << "this host has no IPv6";
  }
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT((*server)->address(), testing::StartsWith("[::1]:"));
  const std::string port = (*server)->address().substr(6);
  httplib::Client client("::1", std::stoi(port));
  const auto health = client.Get("/healthz");
  ASSERT_TRUE(health);
  EXPECT_EQ(health->body, "ok\n");
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
