// Goal: transfers are agreed on over mutual TLS, and with nobody who lacks a certificate of the node's CA. Method: a node
// whose port wants certificates, a worker and bare controls against it; the blocks go over the libnccl of the tests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "services/transport/tls.h"
#include "tests/services/testing/certificates.h"
#include "tests/services/transport/nccl/transfer_node.h"
#include "tests/services/transport/nccl/transfer_worker.h"

namespace kvist::testing {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<TlsIdentity> Identity(const std::string& name, const Issued& issued, const std::string& ca) {
  auto loaded = TlsIdentity::Load(WriteTls(::testing::TempDir() + "/" + name, issued, ca));
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.value_or(nullptr);
}

class TransferTlsTest : public ::testing::Test {
 protected:
  absl::Status OpenAs(const std::shared_ptr<const TlsIdentity>& tls) const {
    v1::OpenEpochRequest request;
    request.set_nccl_version(22707);  // another than the node's: who is let in is refused for that, with nothing begun
    return NewGrpcTransferControl(node_.address(), tls)->Open(request, absl::Now() + kTestDeadline).status();
  }

  const TestCa ca_;
  TransferNode node_{4, TestLimits(), Identity("node", ca_.Issue(), ca_.pem())};
};

TEST_F(TransferTlsTest, BlocksThatAreAgreedOnOverTlsArriveOverNccl) {
  TransferWorker worker(node_.address(), "tls", Identity("worker", ca_.Issue(), ca_.pem()));
  ASSERT_TRUE(worker.Open());
  const Fetched fetched = worker.Get(0, 4);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(worker.Read(fetched.blocks[i]), BlockBytes(i));
  EXPECT_EQ(worker.fetch->counts().over_nccl, 4);
}

TEST_F(TransferTlsTest, WhoHasACertificateOfTheCaIsHeard) {
  const absl::Status status = OpenAs(Identity("worker", ca_.Issue(), ca_.pem()));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(TransferTlsTest, PlaintextAndACertificateOfAnotherCaAreRefusedWithAWordOnTls) {
  const TestCa other;
  for (const auto& tls : {std::shared_ptr<TlsIdentity>(), Identity("stranger", other.Issue(), ca_.pem()),
                          Identity("distrustful", ca_.Issue(), other.pem())}) {
    const absl::Status status = OpenAs(tls);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("TLS"));
  }
  EXPECT_EQ(node_.sessions.counts().sessions, 0);
}

}  // namespace
}  // namespace kvist::testing
