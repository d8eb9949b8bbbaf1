// Goal: a node keeps profiles and hands them out, none but those it was given whole, within its bounds, and over restarts.
// Method: the shelf over folders of its own; the same acts over a channel within the process and over gRPC.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "kernels/codec.h"
#include "services/node/node.h"
#include "services/node/profile_shelf.h"
#include "services/transport/profile_digest.h"
#include "services/transport/transport.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/services/testing/local_cluster.h"
#include "tests/services/testing/loopback.h"

namespace kvist {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

std::string File(uint64_t seed = 1, uint32_t layers = 2) {
  const std::vector<uint8_t> file = *MakeProfileFile({.layers = layers, .seed = seed}).Write();
  return std::string(file.begin(), file.end());
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

class ShelfTest : public ::testing::Test {
 protected:
  ShelfTest()
      : folder_(::testing::TempDir() + "/shelf." + ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
  }
  ~ShelfTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<ProfileShelf> Open(uint64_t capacity_bytes = 64 << 20) {
    auto shelf = ProfileShelf::Open({capacity_bytes, folder_});
    EXPECT_TRUE(shelf.ok()) << shelf.status();
    return *std::move(shelf);
  }
  static absl::StatusOr<bool> Keep(ProfileShelf& shelf, const std::string& file, const std::string& tenant = "") {
    const ProfilePlace place{tenant, ProfileDigest(file)};
    const absl::StatusOr<Pass> room = shelf.Reserve(place, file.size());
    if (!room.ok()) return room.status();
    return shelf.Keep(place, file);
  }
  static std::string Found(ProfileShelf& shelf, const std::string& file, const std::string& tenant = "") {
    const auto found = shelf.Find({tenant, ProfileDigest(file)});
    return found == nullptr ? "" : *found;
  }
  std::vector<std::filesystem::path> Files() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) files.push_back(entry.path());
    return files;
  }

  const std::string folder_;
};

TEST_F(ShelfTest, AProfileIsKeptOnceAndGivenBackAsItCame) {
  const auto shelf = Open();
  EXPECT_EQ(Found(*shelf, File()), "");
  EXPECT_TRUE(*Keep(*shelf, File()));
  EXPECT_FALSE(*Keep(*shelf, File()));
  EXPECT_EQ(Found(*shelf, File()), File());
  EXPECT_EQ(shelf->figures().profiles, 1u);
  EXPECT_EQ(shelf->figures().bytes, File().size());
}

TEST_F(ShelfTest, BytesOfAnotherNameAndBytesThatAreNoProfileAreRefused) {
  const auto shelf = Open();
  const ProfilePlace place{"", ProfileDigest(File())};
  const absl::Status other = shelf->Keep(place, File(2)).status();
  EXPECT_TRUE(absl::IsInvalidArgument(other)) << other;
  EXPECT_NE(Text(other).find(absl::BytesToHexString(place.digest)), std::string::npos) << other;
  std::string edited = File();
  edited[edited.size() - 9] ^= 1;
  const absl::Status none = Keep(*shelf, edited).status();
  EXPECT_TRUE(absl::IsInvalidArgument(none)) << none;
  EXPECT_EQ(shelf->figures().profiles, 0u);
  EXPECT_EQ(shelf->figures().refused, 2u);
  EXPECT_TRUE(Files().empty());
}

TEST_F(ShelfTest, AFullShelfSaysWhatToDoAndForgetsNothing) {
  const auto shelf = Open(File().size() + 10);
  ASSERT_TRUE(Keep(*shelf, File()).ok());
  const absl::Status full = Keep(*shelf, File(2)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_NE(Text(full).find("raise --profile-capacity"), std::string::npos) << full;
  EXPECT_EQ(Found(*shelf, File()), File());
}

TEST_F(ShelfTest, WhatIsBeingUploadedTakesRoomUntilItEnds) {
  const auto shelf = Open(File().size() + 10);
  const ProfilePlace place{"", ProfileDigest(File())};
  absl::StatusOr<Pass> room = shelf->Reserve(place, File().size());
  ASSERT_TRUE(room.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(shelf->Reserve(place, 11).status()));
  room->Return();
  EXPECT_TRUE(Keep(*shelf, File()).ok());
}

TEST_F(ShelfTest, TenantsSeeTheirOwnOnlyAndNoneTakesAllRoom) {
  const auto shelf = Open(6 * File().size());
  ASSERT_TRUE(*Keep(*shelf, File(), "a"));
  EXPECT_EQ(Found(*shelf, File(), "b"), "");
  EXPECT_EQ(Found(*shelf, File()), "");
  EXPECT_TRUE(absl::IsResourceExhausted(Keep(*shelf, File(2), "a").status()));
  EXPECT_TRUE(*Keep(*shelf, File(), "b"));
}

TEST_F(ShelfTest, ProfilesOutliveTheNodeInItsFolder) {
  ASSERT_TRUE(*Keep(*Open(), File()));
  ASSERT_TRUE(*Keep(*Open(), File(2), "team-a.x"));
  const auto again = Open();
  EXPECT_EQ(Found(*again, File()), File());
  EXPECT_EQ(Found(*again, File(2), "team-a.x"), File(2));
  EXPECT_EQ(again->figures().profiles, 2u);
}

TEST_F(ShelfTest, AnEditedFileIsDroppedAndWhatACrashLeftGoesToo) {
  ASSERT_TRUE(*Keep(*Open(), File()));
  ASSERT_EQ(Files().size(), 1u);
  std::fstream(Files()[0], std::ios::binary | std::ios::in | std::ios::out).seekp(200).put('x');
  std::ofstream(folder_ + "/half.kvp.unfinished") << "half";
  std::ofstream(folder_ + "/notes.txt") << "of the operator";
  const auto again = Open();
  EXPECT_EQ(Found(*again, File()), "");
  EXPECT_EQ(again->figures().damaged, 1u);
  EXPECT_EQ(Files(), std::vector<std::filesystem::path>{folder_ + "/notes.txt"});
}

TEST_F(ShelfTest, AFolderThatCannotBeIsNamed) {
  std::ofstream(folder_ + ".file") << "in the way";
  const absl::Status status = ProfileShelf::Open({1 << 20, folder_ + ".file/below"}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(Text(status).find(folder_), std::string::npos) << status;
  std::filesystem::remove(folder_ + ".file");
}

// A node of its own, spoken to by either kind of channel.
class OneNode {
 public:
  virtual ~OneNode() = default;
  virtual Channel& channel() = 0;
};
class NodeWithin final : public OneNode {
 public:
  Channel& channel() override { return *channel_; }

 private:
  testing::LocalCluster cluster_{1, 8 << 20};
  const std::unique_ptr<Channel> channel_ = cluster_.Connect("n0:1");
};
class NodeOverGrpc final : public OneNode {
 public:
  Channel& channel() override { return *channel_; }

 private:
  const std::unique_ptr<NodeServer> node_ = testing::StartNode(8 << 20);
  const std::unique_ptr<Transport> transport_ = NewGrpcTransport();
  const std::unique_ptr<Channel> channel_ = transport_->Connect(node_->data_address().ToString());
};

struct Way {
  const char* name;
  std::function<std::unique_ptr<OneNode>()> make;
};

class ProfileChannelTest : public ::testing::TestWithParam<Way> {
 protected:
  static absl::Time Soon() { return absl::Now() + kPatience; }
  static v1::ProfileName NameOf(const std::string& file) {
    v1::ProfileName name;
    name.set_digest(ProfileDigest(file));
    name.set_size_bytes(file.size());
    return name;
  }
  absl::StatusOr<std::string> Get(const std::string& digest) {
    v1::GetProfileRequest request;
    request.set_digest(digest);
    return channel().GetProfile(request, Soon());
  }
  Channel& channel() { return node_->channel(); }

  const std::unique_ptr<OneNode> node_ = GetParam().make();
};

TEST_P(ProfileChannelTest, AProfileComesBackAndIsKeptOnce) {
  const std::string file = File();
  EXPECT_EQ(*Get(ProfileDigest(file)), "");
  const auto first = channel().PutProfile(NameOf(file), file, Soon());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->kept());
  const auto second = channel().PutProfile(NameOf(file), file, Soon());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->kept());
  EXPECT_EQ(*Get(ProfileDigest(file)), file);
}

TEST_P(ProfileChannelTest, OneOfSeveralMessagesComesWhole) {
  std::string notes(900 << 10, 'n');
  for (size_t i = 0; i < notes.size(); ++i) notes[i] = static_cast<char>('a' + (i * i) % 26);
  ProfileFile file = MakeProfileFile({.layers = 24});
  std::mt19937 random(3);
  for (ProfileLayer& layer : file.groups[0].layers) {
    for (ProfileSide& side : layer.sides) {
      for (int8_t& code : side.synthesis.codes) code = static_cast<int8_t>(random() % 255 - 127);
    }
  }
  file.facts.notes = "\"" + notes + "\"";
  const std::vector<uint8_t> written = *file.Write();
  const std::string bytes(written.begin(), written.end());
  ASSERT_GT(bytes.size(), kMaxPartBytes);
  const auto put = channel().PutProfile(NameOf(bytes), bytes, Soon());
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_TRUE(*Get(ProfileDigest(bytes)) == bytes);
}

TEST_P(ProfileChannelTest, OtherBytesThanTheNamesAreRefused) {
  const auto put = channel().PutProfile(NameOf(File()), File(2).substr(0, File().size()), Soon());
  EXPECT_TRUE(absl::IsInvalidArgument(put.status())) << put.status();
  EXPECT_EQ(*Get(ProfileDigest(File())), "");
}

TEST_P(ProfileChannelTest, TooFewAndTooManyBytesAreRefused) {
  v1::ProfileName name = NameOf(File());
  const auto few = channel().PutProfile(name, File().substr(1), Soon());
  EXPECT_TRUE(absl::IsInvalidArgument(few.status())) << few.status();
  const auto many = channel().PutProfile(name, File() + "more", Soon());
  EXPECT_TRUE(absl::IsOutOfRange(many.status())) << many.status();
  EXPECT_EQ(*Get(ProfileDigest(File())), "");
}

TEST_P(ProfileChannelTest, WrongNamesAreRefusedWithASentence) {
  v1::ProfileName name = NameOf(File());
  name.set_size_bytes(uint64_t{1} << 40);
  EXPECT_NE(Text(channel().PutProfile(name, File(), Soon()).status()).find("a profile has 1 to"), std::string::npos);
  name = NameOf(File());
  name.set_digest("short");
  EXPECT_NE(Text(channel().PutProfile(name, File(), Soon()).status()).find("16 bytes"), std::string::npos);
  EXPECT_NE(Text(Get("short").status()).find("16 bytes"), std::string::npos);
  const absl::Time late = absl::Now() + absl::Minutes(5);
  EXPECT_NE(Text(channel().PutProfile(NameOf(File()), File(), late).status()).find("at most a minute"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Ways, ProfileChannelTest,
                         ::testing::Values(Way{"within", [] { return std::make_unique<NodeWithin>(); }},
                                           Way{"grpc", [] { return std::make_unique<NodeOverGrpc>(); }}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ProfileNodesTest, AReaderMayGetAndNotPut) {
  testing::LocalCluster cluster(1, 8 << 20);
  CacheHandlers* const handlers = cluster.node("n0")->handlers();
  Caller reader;
  reader.identity = "dns:reader";
  reader.role = Role::kReader;
  const absl::Status put = handlers->OpenPutProfile(reader, absl::Now() + absl::Seconds(5)).status();
  EXPECT_TRUE(absl::IsPermissionDenied(put)) << put;
  v1::GetProfileRequest request;
  request.set_digest(ProfileDigest(File()));
  EXPECT_TRUE(handlers->GetProfile(reader, request, absl::Now() + absl::Seconds(5)).ok());
}

// A block of q that names the profile of File().
std::string Block(const Key& key) {
  const std::string file = File();
  Profile profile = *Profile::Parse({reinterpret_cast<const uint8_t*>(file.data()), file.size()});
  EXPECT_TRUE(profile.PrepareEncoding().ok());
  const BlockShape shape{2, 1, 16, 64, Dtype::kBf16};
  BlockIdentity identity;
  identity.key = key.bytes;
  std::memcpy(identity.namespace_digest.data(), testing::kTestNamespace, 16);
  identity.profile_digest = profile.digest();
  std::vector<uint16_t> kv(shape.Elements());
  std::mt19937 random(4);
  for (uint16_t& value : kv) value = static_cast<uint16_t>(0x3f00 + random() % 256);
  std::vector<uint8_t> block(MaxBlockBytes(shape, Codec::kQ));
  const EncodeOptions options{.codec = Codec::kQ, .profile = &profile};
  const auto size =
      Encode(identity, shape, ContiguousPages<const uint16_t>(kv.data(), shape, 16), options, absl::MakeSpan(block));
  EXPECT_TRUE(size.ok()) << size.status();
  return std::string(block.begin(), block.begin() + *size);
}

bool HasProfile(testing::LocalCluster& cluster, const std::string& id) {
  v1::GetProfileRequest request;
  request.set_digest(ProfileDigest(File()));
  const auto file = cluster.node(id)->handlers()->GetProfile(Caller::Anyone(), request, testing::In(5));
  return file.ok() && *file != nullptr && **file == File();
}

TEST(ProfileNodesTest, ANodeThatIsSentABlockWithoutItsProfileFindsItAtAnother) {
  testing::LocalCluster cluster(3, 8 << 20);
  const std::string file = File();
  v1::ProfileName name;
  name.set_digest(ProfileDigest(file));
  name.set_size_bytes(file.size());
  ASSERT_TRUE(cluster.Connect("n2:1")->PutProfile(name, file, testing::In(10)).ok());
  const Key key = testing::TestKey(7);
  ASSERT_TRUE(testing::PutBlock(cluster.Connect("n0:1").get(), key, Block(key)).ok());
  EXPECT_TRUE(testing::WaitFor([&] { return HasProfile(cluster, "n0"); }));
  EXPECT_FALSE(HasProfile(cluster, "n1"));  // it has no such block
}

TEST(ProfileNodesTest, AnAdoptedBlockBringsItsProfileAlong) {
  testing::LocalCluster cluster(2, 8 << 20);
  const std::string file = File();
  v1::ProfileName name;
  name.set_digest(ProfileDigest(file));
  name.set_size_bytes(file.size());
  ASSERT_TRUE(cluster.Connect("n0:1")->PutProfile(name, file, testing::In(10)).ok());
  const Key key = testing::TestKey(8);
  ASSERT_TRUE(testing::PutBlock(cluster.Connect("n0:1").get(), key, Block(key)).ok());
  v1::AdoptRequest request;
  request.set_keys(std::string(key.bytes.begin(), key.bytes.end()));
  request.set_segment_heads(request.keys());
  request.set_from("n0");
  request.set_namespace_digest(testing::kTestNamespace);
  const auto adopted = cluster.Connect("n1:1")->Adopt(request, testing::In(10));
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_TRUE(testing::WaitFor([&] { return HasProfile(cluster, "n1"); }));
}

}  // namespace
}  // namespace kvist
