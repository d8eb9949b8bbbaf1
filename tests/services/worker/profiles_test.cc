// Goal: a worker puts and gets blocks of codec q with its profile, finds a profile that it was not given at the nodes,
// and takes no other. Method: nodes in memory that keep, lack, damage or refuse profiles; synthetic profiles.
#include <string>

#include "services/runtime/runtime.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/services/worker/client_fixture.h"

namespace kvist {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::shared_ptr<const OpenProfile> ProfileOf(const SyntheticProfile& wanted) {
  const std::vector<uint8_t> file = *MakeProfileFile(wanted).Write();
  return *OpenProfile::Open(std::string(file.begin(), file.end()));
}

std::string Name(const OpenProfile& profile) { return std::string(profile.digest().begin(), profile.digest().end()); }

class ProfilesTest : public ClientTest {
 protected:
  ProfilesTest() {
    SyntheticProfile wanted;
    wanted.heads = 2;
    profile_ = ProfileOf(wanted);
    wanted.seed = 2;
    other_ = ProfileOf(wanted);
    options_.codec = Codec::kQ;
    options_.profile = profile_;
  }

  // What a client without the profile has of the namespace: its digest.
  void ForgetProfile() {
    options_.ns.profile_digest = profile_->digest();
    options_.profile = nullptr;
    options_.codec = Codec::kLadder;
    NewClient();
  }

  // All blocks of the prompt, as q decodes them, whatever the values.
  std::vector<uint16_t> GetAll(GetResult* result) {
    *result = *TryGet({0, kBlocks});
    return got_;
  }

  // Gets until the profile is there; false if that does not come true.
  bool Eventually(const std::function<bool()>& holds) {
    const absl::Time deadline = RealRuntime()->Now() + kPatience;
    while (!holds()) {
      if (RealRuntime()->Now() > deadline) return false;
    }
    return true;
  }

  absl::Status CreateStatus() { return Client::Create(options_).status(); }

  std::shared_ptr<const OpenProfile> profile_, other_;
};

TEST_F(ProfilesTest, WhatWasPutComesBackAsItDecodesHere) {
  const PutResult put = Put();
  EXPECT_EQ(put.stored, kBlocks) << put.failure;
  GetResult result;
  const std::vector<uint16_t> got = GetAll(&result);
  ASSERT_EQ(result.blocks, kBlocks) << result.why;
  const std::string& stored = StoredBlock(0);
  const BlockView view = *BlockView::Parse({reinterpret_cast<const uint8_t*>(stored.data()), stored.size()});
  EXPECT_EQ(view.codec(), Codec::kQ);
  EXPECT_EQ(view.identity().profile_digest, profile_->digest());
  std::vector<uint16_t> decoded(kv_.size(), 0xdead);
  const Pages pages = ContiguousPages(decoded.data(), options_.ns.Shape(), capacity_);
  ASSERT_TRUE(Decode(view, {0, 2}, 0, Basis::kOriginal, pages, &profile_->ForDecoding()).ok());
  const size_t row = pages.head_stride;
  for (size_t i = 0; i < decoded.size() / row; ++i) {
    for (size_t at = i * row; at < i * row + 16 * 64; ++at) ASSERT_EQ(decoded[at], got[at]) << at;
  }
}

TEST_F(ProfilesTest, EveryNodeHasTheProfileBeforeItsBlocks) {
  ASSERT_EQ(Put().stored, kBlocks);
  for (size_t node = 0; node < 3; ++node) {
    if (cluster_.node(node).blocks.empty()) continue;
    EXPECT_EQ(cluster_.node(node).profiles.at(Name(*profile_)), profile_->file());
    EXPECT_LE(cluster_.node(node).Calls("PutProfile"), 2);  // by two lanes at once, never again
  }
}

TEST_F(ProfilesTest, ANodeThatHasNoRoomForTheProfileGetsNoBlocks) {
  for (size_t node = 0; node < 3; ++node) {
    cluster_.node(node).profile_fault = absl::ResourceExhaustedError("no room for a profile of 9 bytes");
  }
  const PutResult put = Put();
  EXPECT_EQ(put.failed, kBlocks);
  EXPECT_NE(put.failure.find("no room for a profile of 9 bytes"), std::string::npos) << put.failure;
  for (size_t node = 0; node < 3; ++node) EXPECT_TRUE(cluster_.node(node).blocks.empty());
}

TEST_F(ProfilesTest, AReaderWithoutItMissesOnceAndThenHits) {
  ASSERT_EQ(Put().stored, kBlocks);
  GetResult with, without;
  const std::vector<uint16_t> expected = GetAll(&with);
  ForgetProfile();
  GetAll(&without);
  EXPECT_EQ(MissReasonName(without.miss), "no_profile") << without.why;
  EXPECT_EQ(without.blocks, 0u);
  std::vector<uint16_t> got;
  EXPECT_TRUE(Eventually([&] {
    got = GetAll(&without);
    return without.blocks == kBlocks;
  })) << without.why;
  EXPECT_EQ(got, expected);
  const ClientCounters counters = client().counters();
  EXPECT_EQ(counters.fetched_profiles, 1u);
  EXPECT_GE(counters.misses[v1::MISS_REASON_NO_PROFILE], 1u);
}

TEST_F(ProfilesTest, OtherBytesUnderItsNameAreDroppedAndAnotherNodeIsAsked) {
  ASSERT_EQ(Put().stored, kBlocks);
  for (size_t node = 0; node < 3; ++node) cluster_.node(node).profiles[Name(*profile_)] = other_->file();
  OwnerOf(BlockOfAnotherOwner()).profiles[Name(*profile_)] = profile_->file();
  ForgetProfile();
  absl::StatusOr<GetResult> result;
  EXPECT_TRUE(Eventually([&] {
    result = TryGet({0, 1});  // whose node is asked first, and has the wrong one
    return result->blocks == 1;
  })) << result->why;
  EXPECT_GE(client().counters().refused_profiles, 1u);
}

TEST_F(ProfilesTest, AfterAFetchInVainTheNextOneWaitsAWhile) {
  ASSERT_EQ(Put().stored, kBlocks);
  for (size_t node = 0; node < 3; ++node) cluster_.node(node).profiles.clear();
  ForgetProfile();
  GetResult result;
  const auto asked = [&] {
    int calls = 0;
    for (size_t node = 0; node < 3; ++node) calls += cluster_.node(node).Calls("GetProfile");
    return calls;
  };
  EXPECT_TRUE(Eventually([&] {
    GetAll(&result);
    return asked() == 3;
  }));
  for (int i = 0; i < 20; ++i) GetAll(&result);
  EXPECT_LE(asked(), 6);  // one more round at most: pauses are of seconds
  EXPECT_EQ(MissReasonName(result.miss), "no_profile");
}

TEST_F(ProfilesTest, AFetchByNameFindsItOrSaysWhatEachNodeSaid) {
  cluster_.node(2).profiles[Name(*other_)] = other_->file();
  const auto found = client().FetchProfile(other_->digest());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->file(), other_->file());
  cluster_.node(2).profiles.clear();
  const absl::Status none = client().FetchProfile(other_->digest()).status();
  EXPECT_TRUE(absl::IsNotFound(none));
  for (const char* named : {"n0", "n1", "n2", "kvist profile put"}) {
    EXPECT_NE(std::string(none.message()).find(named), std::string::npos) << none;
  }
}

TEST_F(ProfilesTest, AllNodesAreToldToKeepOne) {
  const PutProfileResult first = client().PutProfile(*other_), second = client().PutProfile(*other_);
  EXPECT_EQ(first.kept, 3u) << first.failure;
  EXPECT_EQ(second.present, 3u) << second.failure;
  cluster_.node(1).profile_fault = absl::ResourceExhaustedError("no room");
  const PutProfileResult third = client().PutProfile(*profile_);
  EXPECT_EQ(third.failed, 1u);
  EXPECT_NE(third.failure.find("n1: no room"), std::string::npos) << third.failure;
}

TEST_F(ProfilesTest, AnyNumberOfThreadsUseAProfileThatNobodyHasPrepared) {
  const BlockShape shape = options_.ns.Shape();
  BlockIdentity identity;
  identity.profile_digest = profile_->digest();
  std::vector<std::vector<uint8_t>> blocks(4, std::vector<uint8_t>(MaxBlockBytes(shape, Codec::kQ)));
  std::vector<std::unique_ptr<Thread>> threads;
  for (std::vector<uint8_t>& block : blocks) {
    threads.push_back(RealRuntime()->Start([&] {
      const EncodeOptions encode{.codec = Codec::kQ, .profile = *profile_->ForEncoding()};
      const auto pages = ContiguousPages<const uint16_t>(kv_.data(), shape, capacity_);
      block.resize(*Encode(identity, shape, pages, encode, absl::MakeSpan(block)));
      std::vector<uint16_t> decoded(shape.Elements());
      const Pages out = ContiguousPages(decoded.data(), shape, shape.tokens);
      EXPECT_TRUE(Decode(*BlockView::Parse(block), {0, 2}, 0, Basis::kOriginal, out, &profile_->ForDecoding()).ok());
    }));
  }
  threads.clear();
  for (const std::vector<uint8_t>& block : blocks) EXPECT_EQ(block, blocks[0]);
}

TEST_F(ProfilesTest, TheNamespaceNamesTheProfileThatWasGiven) {
  EXPECT_EQ(client().ns().profile_digest, profile_->digest());
  options_.ns.profile_digest = other_->digest();
  const std::string refused(CreateStatus().message());
  EXPECT_NE(refused.find(DigestText(other_->digest())), std::string::npos) << refused;
  EXPECT_NE(refused.find(DigestText(profile_->digest())), std::string::npos) << refused;
}

TEST_F(ProfilesTest, AProfileOfAnotherModelIsRefusedByItsNumbers) {
  options_.profile = ProfileOf({.layers = 3});
  const absl::Status refused = CreateStatus();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_NE(std::string(refused.message()).find("of 3 layers, 1 heads and head_dim 64, not 2, 2 and 64"),
            std::string::npos)
      << refused;
}

TEST_F(ProfilesTest, CodecQWithoutAProfileIsRefused) {
  options_.profile = nullptr;
  const absl::Status refused = CreateStatus();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_NE(std::string(refused.message()).find("codec q needs a profile"), std::string::npos) << refused;
}

}  // namespace
}  // namespace kvist
