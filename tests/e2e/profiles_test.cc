// Goal: a profile of codec q makes its way as its operator sees it: put with the first blocks, found by readers that have
// only its name, kept over a crash of the node, and dropped where somebody has edited it. Method: a real kvistd with a
// folder of profiles, the command line, and what the codec says here of the same values.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "kernels/codec.h"
#include "services/cluster/static_file.h"
#include "services/worker/open_profile.h"
#include "tests/e2e/process.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

using nlohmann::json;
using testing::Ended;
using ::testing::HasSubstr;
using testing::Process;

constexpr uint32_t kTokensPerBlock = 16, kBlocks = 6, kTokens = kTokensPerBlock * kBlocks;
const BlockShape kShape{2, 1, kTokensPerBlock, 64, Dtype::kBf16};

class ProfilesTest : public ::testing::Test {
 protected:
  ProfilesTest() {
    folder_ = ::testing::TempDir() + "/profiles." + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    const std::vector<uint8_t> file = *MakeProfileFile({}).Write();
    Write("model.kvp", std::string(file.begin(), file.end()));
    profile_ = *OpenProfile::Open(std::string(file.begin(), file.end()));
    Write("cluster.json", R"({"view": 1, "nodes": [{"id": "a", "address": "127.0.0.1:0", "capacity": "16MiB"}]})");
    Write("ns.json", json{{"model", "m"},
                          {"dtype", "bf16"},
                          {"layers", 2},
                          {"heads", 1},
                          {"head_dim", 64},
                          {"tokens_per_block", kTokensPerBlock},
                          {"profile_digest", DigestText(profile_->digest())}}
                         .dump());
    json tokens = json::array();
    for (uint32_t i = 0; i < kTokens; ++i) tokens.push_back(i);
    Write("tokens.json", tokens.dump());
    kv_.resize(kShape.Elements() * kBlocks);
    for (size_t i = 0; i < kv_.size(); ++i) kv_[i] = static_cast<uint16_t>(0x3e00 + i * i % 499);
    Write("kv.bin", std::string(reinterpret_cast<const char*>(kv_.data()), 2 * kv_.size()));
  }

  std::string Path(const std::string& name) { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) { std::ofstream(Path(name), std::ios::binary) << text; }
  std::string ReadBack(const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(Path(name), std::ios::binary).rdbuf();
    return text.str();
  }

  void Start() {
    std::filesystem::remove_all(Path("cluster.json.d"));
    node_ = std::make_unique<Process>(std::vector<std::string>{testing::Runfile("services/node/kvistd"), "--cluster",
                                                               Path("cluster.json"), "--node", "a", "--profiles",
                                                               Path("kept"), "--http", "127.0.0.1:0"});
    ASSERT_TRUE(LoadView(Path("cluster.json"), testing::In(30), RealRuntime()->clock()).ok()) << node_->Errors();
  }
  void Kill() {
    node_->Signal(SIGKILL);
    ASSERT_EQ(node_->Wait(10), 128 + SIGKILL);
  }
  std::string Metrics() {
    std::string address;
    std::ifstream(HttpAddressFile(Path("cluster.json"), NodeId{"a"})) >> address;
    return testing::HttpGet(*ParseAddress(address), "/metrics");
  }

  Ended Kvist(std::vector<std::string> words) {
    words.insert(words.begin(), testing::Runfile("services/ctl/kvist"));
    words.insert(words.end(), {"--cluster", Path("cluster.json"), "--json"});
    return testing::Run(words, 60);
  }
  json OnPrompt(std::vector<std::string> words) {
    words.insert(words.end(), {"--namespace", Path("ns.json"), "--tokens", Path("tokens.json")});
    const Ended ended = Kvist(words);
    EXPECT_EQ(ended.exit, 0) << ended.errors;
    return json::parse(ended.output, nullptr, false);
  }
  json Put() { return OnPrompt({"put", "--codec", "q", "--profile", Path("model.kvp"), "--kv", Path("kv.bin")}); }

  // What each block decodes to, as the file of the whole prompt.
  std::string DecodedHere() {
    std::vector<uint16_t> decoded(kv_.size());
    std::vector<uint8_t> block(MaxBlockBytes(kShape, Codec::kQ));
    const EncodeOptions options{.codec = Codec::kQ, .profile = *profile_->ForEncoding()};
    for (uint32_t first = 0; first < kTokens; first += kTokensPerBlock) {
      ConstPages from = ContiguousPages<const uint16_t>(kv_.data(), kShape, kTokens);
      Pages to = ContiguousPages(decoded.data(), kShape, kTokens);
      from.base += first * from.token_stride;
      to.base += first * to.token_stride;
      BlockIdentity identity;
      identity.profile_digest = profile_->digest();
      identity.first_position = first;
      const auto size = Encode(identity, kShape, from, options, absl::MakeSpan(block));
      EXPECT_TRUE(size.ok()) << size.status();
      const BlockView view = *BlockView::Parse(absl::MakeSpan(block).first(*size));
      EXPECT_TRUE(Decode(view, {0, 2}, 0, Basis::kOriginal, to, &profile_->ForDecoding()).ok());
    }
    return std::string(reinterpret_cast<const char*>(decoded.data()), 2 * decoded.size());
  }

  std::string folder_;
  std::shared_ptr<const OpenProfile> profile_;
  std::vector<uint16_t> kv_;
  std::unique_ptr<Process> node_;
};

TEST_F(ProfilesTest, WhatWasPutComesBackBitForBitWithTheFileOrByItsNameAlone) {
  Start();
  EXPECT_EQ(Put()["stored"], kBlocks);
  EXPECT_EQ(OnPrompt({"get", "--kv", Path("with.bin"), "--profile", Path("model.kvp")})["blocks"], kBlocks);
  EXPECT_EQ(OnPrompt({"get", "--kv", Path("without.bin")})["blocks"], kBlocks);
  EXPECT_TRUE(ReadBack("with.bin") == DecodedHere());
  EXPECT_TRUE(ReadBack("without.bin") == ReadBack("with.bin"));
  const std::string metrics = Metrics();
  EXPECT_THAT(metrics, HasSubstr("\nkvist_profiles 1\n"));
  EXPECT_THAT(metrics, HasSubstr("\nkvist_profile_puts_total{result=\"kept\"} 1\n"));
}

TEST_F(ProfilesTest, AProfileOutlivesItsNodeAndAnEditedOneIsDropped) {
  const std::string digest = DigestText(profile_->digest());
  Start();
  const Ended put = Kvist({"profile", "put", Path("model.kvp")});
  ASSERT_EQ(put.exit, 0) << put.errors;
  Kill();
  Start();
  const Ended got = Kvist({"profile", "get", digest, "-o", Path("back.kvp")});
  EXPECT_EQ(got.exit, 0) << got.errors;
  EXPECT_TRUE(ReadBack("back.kvp") == ReadBack("model.kvp"));
  Kill();
  const std::string kept = "kept/" + digest + ".kvp";
  std::string edited = ReadBack(kept);
  ASSERT_EQ(edited, ReadBack("model.kvp"));
  edited[edited.size() / 2] ^= 4;
  Write(kept, edited);
  Start();
  const Ended gone = Kvist({"profile", "get", digest, "-o", Path("gone.kvp")});
  EXPECT_EQ(gone.exit, 1);
  EXPECT_THAT(gone.errors, HasSubstr("no node gave profile " + digest));
  EXPECT_THAT(Metrics(), HasSubstr("\nkvist_damaged_profiles_total 1\n"));
  EXPECT_FALSE(std::filesystem::exists(Path(kept)));
  EXPECT_THAT(node_->Errors(), HasSubstr("damaged profile dropped"));
}

}  // namespace
}  // namespace kvist
