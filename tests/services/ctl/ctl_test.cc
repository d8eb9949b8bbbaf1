// Goal: an operator gets what was asked for, or a sentence that names everything that is wrong. Method: the parser and
// the commands over nodes in memory, with files in the test's own folder; output is read as a script and as a person
// would.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "kernels/half.h"
#include "kernels/header.h"
#include "services/ctl/commands.h"
#include "services/ctl/flags.h"
#include "services/ctl/input_files.h"
#include "services/worker/open_profile.h"
#include "tests/kernels/q/synthetic_profile.h"
#include "tests/services/worker/fake_cluster.h"

namespace kvist {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

absl::StatusOr<ParsedCommand> Parse(std::vector<std::string> words) {
  std::vector<const char*> argv = {"kvist"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return ParseCommand(static_cast<int>(argv.size()), argv.data());
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Flags, AreReadIntoOneStruct) {
  const auto parsed = Parse({"put",  "--cluster",  "c",       "--namespace", "n",          "--tokens", "t",
                             "--kv", "k",          "--codec", "i8",          "--floor-db", "31.5",     "--threads",
                             "3",    "--deadline", "1m30s",   "--json",      "--key-bits", "4",        "--value-bits",
                             "3"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const Command& command = parsed->command;
  EXPECT_EQ(command.act, Act::kPut);
  EXPECT_EQ(command.cluster_file, "c");
  EXPECT_EQ(command.namespace_file, "n");
  EXPECT_EQ(command.tokens_file, "t");
  EXPECT_EQ(command.kv_file, "k");
  EXPECT_EQ(command.codec, Codec::kI8);
  EXPECT_EQ(command.floor_db, 31.5f);
  EXPECT_EQ(command.key_bits, 4);
  EXPECT_EQ(command.value_bits, 3);
  EXPECT_EQ(command.threads, 3);
  EXPECT_EQ(command.deadline, absl::Seconds(90));
  EXPECT_TRUE(command.json);
}

TEST(Flags, MeanBitsNeedAProfileThatSharesThemOut) {
  const std::vector<std::string> put = {"put", "--cluster", "c", "--namespace", "n", "--tokens", "t", "--kv", "k"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), put.begin(), put.end());
    return Parse({more.begin(), more.end()});
  };
  const auto parsed = with({"--mean-bits", "3.1", "--profile", "p"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->command.mean_bits, 3.1f);
  EXPECT_EQ(parsed->command.profile_file, "p");
  EXPECT_THAT(Message(with({"--mean-bits", "3"}).status()),
              HasSubstr("--mean-bits: needs --profile, which shares them out"));
  EXPECT_THAT(Message(with({"--mean-bits", "9", "--profile", "p"}).status()),
              HasSubstr("--mean-bits: '9' is no number of 0 to 8"));
}

TEST(Flags, TopTakesAnIntervalAndNoJson) {
  const auto parsed = Parse({"top", "--node", "127.0.0.1:7101", "--interval", "500ms", "--once"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->command.act, Act::kTop);
  EXPECT_EQ(parsed->command.interval, absl::Milliseconds(500));
  EXPECT_TRUE(parsed->command.once);
  const auto wrong = Parse({"top", "--node", "127.0.0.1:7101", "--interval", "5", "--json"});
  EXPECT_THAT(Message(wrong.status()), HasSubstr("--interval: '5' is no duration of 100ms to 1h"));
  EXPECT_THAT(Message(wrong.status()), HasSubstr("--json: unknown"));
}

TEST(Flags, AllThatAreWrongAreNamedAtOnce) {
  const auto parsed = Parse({"put", "--codec", "zip", "--floor-db", "x", "--threads", "0", "--deadline", "soon",
                             "--colour", "--key-bits", "17"});
  const std::string message = Message(parsed.status());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : {"--colour: unknown; see --help", "--cluster or --node: needed", "--namespace: needed",
                           "--tokens: needed", "--kv: needed", "--codec: ", "--floor-db: 'x' is no number of 0 to 200",
                           "--key-bits: '17' is no number of 0 to 16", "--threads: '0' is no number of 1 to 256",
                           "--deadline: 'soon' is no duration of 1ms to 10m"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_EQ(Lines(message).size(), 10u) << message;
}

TEST(Flags, ACommandIsNeeded) {
  EXPECT_THAT(Message(Parse({}).status()),
              HasSubstr("give one of put, get, match, explain, stats, erase, ring, drain, top"));
  EXPECT_THAT(Message(Parse({"fetch"}).status()), HasSubstr("fetch: unknown"));
  EXPECT_EQ(Message(Parse({"ring", "--cluster", "c", "--tokens", "t"}).status()),
            "--namespace: needed: a JSON file that says whose KV this is");
  EXPECT_TRUE(Parse({"ring", "--cluster", "c"}).ok());
}

TEST(Flags, ADrainNamesItsNodeAndItsBounds) {
  const auto parsed = Parse({"drain", "n1", "--node", "a:1,b:2", "--hand-over", "2m", "--budget", "1GiB"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->command.act, Act::kDrain);
  EXPECT_EQ(parsed->command.node_id, "n1");
  EXPECT_EQ(parsed->command.seeds, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(parsed->command.drain_deadline, absl::Minutes(2));
  EXPECT_EQ(parsed->command.drain_budget_bytes, 1u << 30);
  const std::string wrong =
      Message(Parse({"drain", "--cluster", "c", "--node", "nowhere", "--hand-over", "soon", "--budget", "x"}).status());
  for (const char* part : {"NODE: needed", "--node: give either --cluster or --node", "\"nowhere\" is not an address",
                           "--hand-over: 'soon' is no duration", "--budget: "}) {
    EXPECT_THAT(wrong, HasSubstr(part));
  }
}

TEST(Flags, APromptIsNamedByItsTokensOrByItsKeys) {
  const std::vector<std::string> ns = {"--cluster", "c", "--namespace", "n"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.end(), ns.begin(), ns.end());
    return Parse(words);
  };
  EXPECT_EQ(with({"explain", "--chain", "k"})->command.chain_file, "k");
  EXPECT_EQ(Message(with({"explain", "--chain", "k", "--tokens", "t"}).status()),
            "--chain: give either --tokens or --chain");
  EXPECT_EQ(Message(with({"match"}).status()),
            "--tokens or --chain: needed: a JSON file with the prompt's token ids, or with its blocks' keys");
  EXPECT_THAT(Message(with({"get", "--kv", "f", "--tokens", "t", "--chain", "k"}).status()),
              HasSubstr("--chain: unknown"));
}

TEST(Flags, CommandsOnAPromptSayHowManyNodesKeepIt) {
  for (const char* act : {"put", "get", "match", "explain", "erase"}) {
    std::vector<std::string> words = {act, "--cluster", "c", "--namespace", "n", "--tokens", "t"};
    if (act == std::string("put") || act == std::string("get")) words.insert(words.end(), {"--kv", "k"});
    EXPECT_EQ(Parse(words)->command.replicas, 1) << act;
    words.insert(words.end(), {"--replicas", "3"});
    ASSERT_TRUE(Parse(words).ok()) << Parse(words).status();
    EXPECT_EQ(Parse(words)->command.replicas, 3) << act;
    for (const char* wrong : {"0", "4", "two"}) {
      words.back() = wrong;
      EXPECT_EQ(Message(Parse(words).status()), absl::StrCat("--replicas: '", wrong, "' is no number of 1 to 3"));
    }
  }
  EXPECT_THAT(Message(Parse({"stats", "--cluster", "c", "--replicas", "2"}).status()), HasSubstr("unknown"));
}

TEST(Flags, AProfileIsShownPutOrFetched) {
  const std::string digest(32, 'a');
  const auto parsed = Parse({"profile", "get", digest, "-o", "out.kvp", "--node", "127.0.0.1:7101"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->command.act, Act::kProfile);
  EXPECT_EQ(parsed->command.profile_act, ProfileAct::kGet);
  EXPECT_EQ(parsed->command.profile, digest);
  EXPECT_EQ(parsed->command.output_file, "out.kvp");
  EXPECT_TRUE(Parse({"profile", "show", "model.kvp"}).ok());  // a file needs no node
  EXPECT_THAT(Message(Parse({"profile", "show", digest}).status()), HasSubstr("--cluster or --node: needed"));
  EXPECT_THAT(Message(Parse({"profile", "burn"}).status()), HasSubstr("ACT: needed: one of show, put, get"));
  EXPECT_THAT(Message(Parse({"profile", "put", digest, "--node", "a:1"}).status()),
              HasSubstr("put takes the profile's file"));
  EXPECT_THAT(Message(Parse({"profile", "get", "model.kvp", "--node", "a:1"}).status()),
              AllOf(HasSubstr("get takes a digest"), HasSubstr("--output: get needs it")));
}

TEST(Flags, HelpAndVersionArePrinted) {
  EXPECT_THAT(Parse({"--help"})->print_and_exit, HasSubstr("erase"));
  EXPECT_THAT(Parse({"put", "--help"})->print_and_exit, HasSubstr("--floor-db"));
  EXPECT_THAT(Parse({"--version"})->print_and_exit, HasSubstr("kvist 0."));
}

class CtlTest : public testing::Test {
 protected:
  CtlTest() {
    folder_ = testing::TempDir() + "/ctl_test." + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Write("cluster.json", R"({"view": 1, "nodes": [{"id": "n0", "address": "n0:1", "capacity": "1MiB"},
                                                   {"id": "n1", "address": "n1:1", "weight": 2, "capacity": "1MiB"}]})");
    Write("ns.json",
          R"({"model": "m", "dtype": "bf16", "layers": 2, "heads": 1, "head_dim": 64, "tokens_per_block": 16})");
    json tokens = json::array();
    for (int i = 0; i < 50; ++i) tokens.push_back(i);
    Write("tokens.json", tokens.dump());
    std::string kv(size_t{2} * 2 * 1 * 50 * 64 * 2, '\0');
    for (size_t i = 0; i < kv.size(); i += 2) {  // bf16 near 1
      kv[i] = static_cast<char>(i * 7);
      kv[i + 1] = 0x3f;
    }
    Write("kv.bin", kv);
  }

  std::string Path(const std::string& name) { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) { std::ofstream(Path(name), std::ios::binary) << text; }
  std::string ReadBack(const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(Path(name), std::ios::binary).rdbuf();
    return text.str();
  }

  // Its digest in hex.
  std::string WriteProfile(const std::string& name, const SyntheticProfile& wanted) {
    const std::vector<uint8_t> file = *MakeProfileFile(wanted).Write();
    Write(name, std::string(file.begin(), file.end()));
    return DigestText(Profile::Parse(file)->digest());
  }

  absl::Status Run(std::vector<std::string> words) {
    words.insert(words.end(), {"--cluster", Path("cluster.json")});
    const auto parsed = Parse(words);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    out_.str("");
    return RunCommand(parsed->command, &cluster_, out_);
  }
  absl::Status RunOnPrompt(std::vector<std::string> words) {
    words.insert(words.end(), {"--namespace", Path("ns.json"), "--tokens", Path("tokens.json")});
    return Run(words);
  }
  json Json() { return json::parse(out_.str()); }

  std::string folder_;
  FakeCluster cluster_{2};
  std::ostringstream out_;
};

TEST_F(CtlTest, BytesOfAnEngineGoInAndComeBack) {
  Write("ns.json",
        R"({"model": "m", "dtype": "u8", "layers": 2, "heads": 1, "head_dim": 128, "tokens_per_block": 16})");
  ASSERT_TRUE(RunOnPrompt({"put", "--json", "--codec", "fp8p", "--kv", Path("kv.bin")}).ok()) << out_.str();
  EXPECT_EQ(Json()["stored"], 3);
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("out.bin")}).ok());
  const std::string put = ReadBack("kv.bin"), got = ReadBack("out.bin");
  ASSERT_EQ(got.size(), put.size() / 50 * 48);
  for (size_t row = 0; row < 4; ++row)
    EXPECT_EQ(got.substr(row * 48 * 128, 48 * 128), put.substr(row * 50 * 128, 48 * 128));
}

TEST_F(CtlTest, APromptGoesInAndComesBack) {
  ASSERT_TRUE(RunOnPrompt({"put", "--json", "--codec", "raw16", "--kv", Path("kv.bin")}).ok()) << out_.str();
  EXPECT_EQ(Json()["blocks"], 3);
  EXPECT_EQ(Json()["stored"], 3);
  ASSERT_TRUE(RunOnPrompt({"match", "--json"}).ok());
  EXPECT_EQ(Json()["blocks"], 3);
  EXPECT_EQ(Json()["tokens"], 48);
  EXPECT_EQ(Json()["of_tokens"], 50);
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("out.bin")}).ok());
  EXPECT_EQ(Json()["tokens"], 48);
  // The file of 48 tokens is that of 50 without the last two of each row of tokens.
  const std::string put = ReadBack("kv.bin"), got = ReadBack("out.bin");
  ASSERT_EQ(got.size(), put.size() / 50 * 48);
  for (size_t row = 0; row < 4; ++row)
    EXPECT_EQ(got.substr(row * 48 * 128, 48 * 128), put.substr(row * 50 * 128, 48 * 128));
  ASSERT_TRUE(RunOnPrompt({"erase", "--json"}).ok());
  EXPECT_EQ(Json()["erased"], 3);
}

TEST_F(CtlTest, APromptOfQGoesInWithItsProfileAndComesBackWithoutTheFile) {
  const std::string digest = WriteProfile("model.kvp", {});
  Write("ns.json", R"({"model": "m", "dtype": "bf16", "layers": 2, "heads": 1, "head_dim": 64, "tokens_per_block": 16,
                       "profile_digest": ")" +
                       digest + "\"}");
  ASSERT_TRUE(
      RunOnPrompt({"put", "--json", "--codec", "q", "--profile", Path("model.kvp"), "--kv", Path("kv.bin")}).ok())
      << out_.str();
  EXPECT_EQ(Json()["stored"], 3);
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("with.bin"), "--profile", Path("model.kvp")}).ok());
  EXPECT_EQ(Json()["blocks"], 3);
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("without.bin")}).ok());
  EXPECT_EQ(Json()["blocks"], 3);
  EXPECT_EQ(ReadBack("with.bin"), ReadBack("without.bin"));
  for (size_t i = 0; i < 2; ++i) cluster_.node(i).profiles.clear();
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("out.bin")}).ok());
  EXPECT_EQ(Json()["miss_reason"], "no_profile");
  EXPECT_THAT(Json()["why"].get<std::string>(), HasSubstr("no node gave profile " + digest));
}

TEST_F(CtlTest, AProfileSharesTheBitsOfALadderOutAndReadersNeedNone) {
  WriteProfile("model.kvp", {});
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::string kv = ReadBack("kv.bin");
  for (size_t at = 0; at < kv.size(); at += 2)
    StoreLe(Bf16FromFloat(normal(random)), 2, reinterpret_cast<uint8_t*>(&kv[at]));
  Write("kv.bin", kv);
  const auto stored_bytes = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"put", "--json", "--codec", "ladder", "--kv", Path("kv.bin")};
    words.insert(words.end(), more.begin(), more.end());
    EXPECT_TRUE(RunOnPrompt(words).ok()) << out_.str();
    EXPECT_EQ(Json()["stored"], 3);
    const uint64_t bytes = Json()["stored_bytes"];
    EXPECT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("out.bin")}).ok());
    EXPECT_EQ(Json()["blocks"], 3);
    EXPECT_TRUE(RunOnPrompt({"erase", "--json"}).ok());
    return bytes;
  };
  const uint64_t few = stored_bytes({"--mean-bits", "2", "--profile", Path("model.kvp")});
  const uint64_t some = stored_bytes({"--mean-bits", "3.5", "--profile", Path("model.kvp")});
  EXPECT_LT(few, some);
  EXPECT_LT(some, stored_bytes({"--key-bits", "8", "--value-bits", "8"}));
}

TEST_F(CtlTest, ProfilesArePutShownAndFetched) {
  const std::string digest = WriteProfile("model.kvp", {});
  ASSERT_TRUE(Run({"profile", "show", Path("model.kvp"), "--json"}).ok());
  EXPECT_EQ(Json()["digest"], digest);
  EXPECT_EQ(Json()["notes"]["model"], "none");
  EXPECT_TRUE(absl::IsNotFound(Run({"profile", "show", digest})));
  ASSERT_TRUE(Run({"profile", "put", Path("model.kvp"), "--json"}).ok());
  EXPECT_EQ(Json()["kept"], 2);
  ASSERT_TRUE(Run({"profile", "show", digest, "--json"}).ok());
  EXPECT_EQ(Json()["layers"], 2);
  ASSERT_TRUE(Run({"profile", "get", digest, "-o", Path("back.kvp")}).ok());
  EXPECT_EQ(ReadBack("back.kvp"), ReadBack("model.kvp"));
}

TEST_F(CtlTest, AProfileThatIsWrongIsNamedWithWhatIsWrongInIt) {
  const std::string digest = WriteProfile("model.kvp", {}), whole = ReadBack("model.kvp");
  WriteProfile("other.kvp", {.layers = 3});
  const auto put = [&](const std::string& file) {
    return Message(RunOnPrompt({"put", "--codec", "q", "--profile", Path(file), "--kv", Path("kv.bin")}));
  };
  EXPECT_THAT(put("other.kvp"), AllOf(HasSubstr("is of another model"), HasSubstr(", not 2, 1 and 64")));
  EXPECT_THAT(put("nowhere.kvp"), HasSubstr("cannot read " + Path("nowhere.kvp")));
  Write("cut.kvp", whole.substr(0, whole.size() - 1));
  EXPECT_THAT(put("cut.kvp"), HasSubstr(Path("cut.kvp") + ": "));
  std::string later = whole;
  later[8] = 9;
  Write("later.kvp", later);
  EXPECT_THAT(put("later.kvp"), AllOf(HasSubstr(Path("later.kvp") + ": "), HasSubstr("version")));
  std::string edited = whole;
  edited[whole.size() / 2] ^= 1;  // the file as such may still be one; then it is another's
  Write("edited.kvp", edited);
  Write("ns.json", R"({"model": "m", "dtype": "bf16", "layers": 2, "heads": 1, "head_dim": 64, "tokens_per_block": 16,
                       "profile_digest": ")" +
                       digest + "\"}");
  EXPECT_THAT(put("edited.kvp"), AnyOf(HasSubstr("the namespace names profile " + digest), HasSubstr("profile: ")));
  EXPECT_THAT(Message(RunOnPrompt({"put", "--codec", "q", "--kv", Path("kv.bin")})),
              HasSubstr("codec q needs a profile"));
}

TEST_F(CtlTest, WhatOnlyAReplicaHoldsIsFoundWithReplicas) {
  ASSERT_TRUE(RunOnPrompt({"put", "--json", "--codec", "raw16", "--kv", Path("kv.bin"), "--replicas", "2"}).ok());
  EXPECT_EQ(Json()["stored"], 3);
  for (size_t i = 0; i < 2; ++i) {
    for (const v1::PutReserve& reserve : cluster_.node(i).reserves) EXPECT_EQ(reserve.replicas(), 2u);
  }
  std::swap(cluster_.node(0).blocks, cluster_.node(1).blocks);  // each block at its replica only
  ASSERT_TRUE(RunOnPrompt({"match", "--json"}).ok());
  EXPECT_EQ(Json()["blocks"], 0);
  ASSERT_TRUE(RunOnPrompt({"match", "--json", "--replicas", "2"}).ok());
  EXPECT_EQ(Json()["blocks"], 3);
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("out.bin"), "--replicas", "2"}).ok());
  EXPECT_EQ(Json()["blocks"], 3);
  ASSERT_TRUE(RunOnPrompt({"explain", "--json"}).ok());
  EXPECT_EQ(Json()["leading_blocks"], 0);
  ASSERT_TRUE(RunOnPrompt({"explain", "--json", "--replicas", "2"}).ok());
  EXPECT_EQ(Json()["leading_blocks"], 3);
  ASSERT_TRUE(RunOnPrompt({"erase", "--json", "--replicas", "2"}).ok());
  EXPECT_EQ(Json()["erased"], 3);
}

TEST_F(CtlTest, KeysStandForTheTokensThatTheyFollowFrom) {
  ASSERT_TRUE(RunOnPrompt({"put", "--json", "--codec", "raw16", "--kv", Path("kv.bin")}).ok());
  json keys = json::array();
  const auto tokens = ReadTokensFile(Path("tokens.json"));
  for (const Key& key : ChainKeys(NamespaceDigest(*ReadNamespaceFile(Path("ns.json"))), 16, *tokens))
    keys.push_back(key.Hex());
  const auto run = [&](const char* act, const std::string& text) {
    Write("keys.json", text);
    return Run({act, "--json", "--namespace", Path("ns.json"), "--chain", Path("keys.json")});
  };
  ASSERT_TRUE(run("match", keys.dump()).ok()) << out_.str();
  EXPECT_EQ(Json()["blocks"], 3);
  EXPECT_EQ(Json()["of_tokens"], 48);
  ASSERT_TRUE(run("explain", keys.dump()).ok());
  EXPECT_EQ(Json()["leading_blocks"], 3);
  EXPECT_EQ(Message(run("match", R"(["ab"])")), Path("keys.json") + ": key 0 is not 64 hex digits");
  EXPECT_EQ(Message(run("match", R"({"key": 1})")), Path("keys.json") + ": not a JSON list of keys in hex");
  ASSERT_TRUE(run("erase", keys.dump()).ok());
  EXPECT_EQ(Json()["erased"], 3);
}

TEST_F(CtlTest, AMissIsAnAnswerWithItsReason) {
  ASSERT_TRUE(RunOnPrompt({"match"}).ok());
  EXPECT_THAT(out_.str(), HasSubstr("never_stored"));
  cluster_.node(0).down = cluster_.node(1).down = true;
  ASSERT_TRUE(RunOnPrompt({"match", "--json"}).ok());
  EXPECT_EQ(Json()["miss_reason"], "owner_down");
  EXPECT_EQ(Json()["why"], "connection refused");
  ASSERT_TRUE(RunOnPrompt({"get", "--json", "--kv", Path("out.bin")}).ok());
  EXPECT_EQ(Json()["miss_reason"], "owner_down");
  EXPECT_EQ(ReadBack("out.bin"), "");
}

TEST_F(CtlTest, WhatCouldNotBeStoredOrErasedIsAFault) {
  cluster_.node(0).down = cluster_.node(1).down = true;
  const absl::Status put = RunOnPrompt({"put", "--json", "--kv", Path("kv.bin"), "--deadline", "300ms"});
  EXPECT_THAT(Message(put), HasSubstr("3 blocks were not stored: node n"));
  EXPECT_EQ(Json()["failed"], 3);
  EXPECT_THAT(Message(RunOnPrompt({"erase"})), HasSubstr("3 blocks were not erased: node n"));
}

TEST_F(CtlTest, StatsShowEveryNode) {
  cluster_.node(1).down = true;
  ASSERT_TRUE(Run({"stats"}).ok());
  EXPECT_THAT(out_.str(), HasSubstr("capacity"));
  EXPECT_THAT(out_.str(), HasSubstr("down: connection refused"));
  ASSERT_TRUE(Run({"stats", "--json"}).ok());
  EXPECT_EQ(Json()[0]["reachable"], true);
  EXPECT_EQ(Json()[0]["blocks"], 0);
  EXPECT_EQ(Json()[1]["error"], "connection refused");
  cluster_.node(0).down = true;
  EXPECT_EQ(Message(Run({"stats"})), "no node of the cluster can be reached");
}

TEST_F(CtlTest, RingShowsOwnersOfAPromptAndSharesOfRandomKeys) {
  ASSERT_TRUE(RunOnPrompt({"ring", "--json"}).ok());
  EXPECT_EQ(Json()["blocks"].size(), 3u);
  EXPECT_THAT(std::string(Json()["blocks"][2]["node"]), testing::AnyOf("n0", "n1"));
  EXPECT_EQ(std::string(Json()["blocks"][2]["key"]).size(), 64u);
  ASSERT_TRUE(Run({"ring", "--json", "--keys", "20000"}).ok());
  EXPECT_NEAR(Json()["nodes"][1]["share"], 2 / 3.0, 0.02);
  ASSERT_TRUE(Run({"ring", "--keys", "100"}).ok());
  EXPECT_THAT(out_.str(), HasSubstr("66.67 %"));
}

v1::DrainResponse Drained(v1::DrainResponse::Phase phase, uint64_t sent) {
  v1::DrainResponse answer;
  answer.set_phase(phase);
  answer.set_blocks(5);
  answer.set_sent_blocks(sent);
  answer.set_left_ms(60'000);
  return answer;
}

TEST_F(CtlTest, ADrainIsStartedOnceAndFollowedUntilTheNodeHasLeft) {
  FakeNode& node = cluster_.node(1);
  node.drain_answers = {Drained(v1::DrainResponse::PHASE_HANDING_OVER, 2), Drained(v1::DrainResponse::PHASE_LEFT, 5)};
  ASSERT_TRUE(Run({"drain", "n1", "--budget", "7"}).ok());
  EXPECT_THAT(out_.str(), HasSubstr("n1: handing_over, 2 of 5 blocks"));
  EXPECT_THAT(out_.str(), HasSubstr("n1: left, 5 of 5 blocks"));
  ASSERT_EQ(node.drain_requests.size(), 2u);
  EXPECT_TRUE(node.drain_requests[0].start());
  EXPECT_EQ(node.drain_requests[0].budget_bytes(), 7u);
  EXPECT_FALSE(node.drain_requests[1].start());
}

TEST_F(CtlTest, ADrainedNodeThatIsGoneHasLeftButOneThatNeverAnsweredIsAFault) {
  cluster_.node(1).drain_answers = {Drained(v1::DrainResponse::PHASE_HANDING_OVER, 4)};
  ASSERT_TRUE(Run({"drain", "n1", "--json"}).ok());
  EXPECT_EQ(json::parse(Lines(out_.str()).back())["phase"], "left");
  EXPECT_EQ(json::parse(Lines(out_.str()).back())["sent_blocks"], 4);
  EXPECT_THAT(Message(Run({"drain", "n1"})), HasSubstr("node n1 at n1:1: connection refused"));
  EXPECT_THAT(Message(Run({"drain", "n7"})), HasSubstr("node \"n7\" is not in view 1; its nodes are n0, n1"));
}

TEST_F(CtlTest, BadFilesAreNamedWithAllThatIsWrongInThem) {
  EXPECT_THAT(Message(ReadNamespaceFile(Path("none")).status()),
              HasSubstr("cannot read " + Path("none") + ": No such file"));
  Write("bad", "{");
  EXPECT_EQ(Message(ReadNamespaceFile(Path("bad")).status()), Path("bad") + ": not JSON");
  Write("bad", R"({"model": 5, "dtype": "int3", "layers": -1, "head_dim": 64, "profile_digest": "ab", "color": 1})");
  const std::string message = Message(ReadNamespaceFile(Path("bad")).status());
  for (const char* part :
       {"\"model\" is not a string", "int3", "\"layers\" is not a whole number", "\"heads\" is missing",
        "\"profile_digest\" is not 32 hex digits", "unknown field \"color\""}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  Write("bad", R"({"model": "m", "dtype": "bf16", "layers": 2, "heads": 1, "head_dim": 65})");
  EXPECT_THAT(Message(ReadNamespaceFile(Path("bad")).status()), HasSubstr("65"));
  Write("bad", "[1, -2]");
  EXPECT_EQ(Message(ReadTokensFile(Path("bad")).status()),
            Path("bad") + ": token 1 is no whole number of 0 to 4294967295");
  Write("bad", "{}");
  EXPECT_EQ(Message(ReadTokensFile(Path("bad")).status()), Path("bad") + ": not a JSON list of token ids");
}

TEST_F(CtlTest, AKvFileOfTheWrongSizeIsRefused) {
  Write("kv.bin", std::string(1000, 'x'));
  EXPECT_EQ(Message(RunOnPrompt({"put", "--kv", Path("kv.bin")})),
            Path("kv.bin") + ": 1000 bytes are no whole number of tokens: the namespace says 512 bytes each");
  Write("kv.bin", std::string(512 * 40, 'x'));
  EXPECT_EQ(Message(RunOnPrompt({"put", "--kv", Path("kv.bin")})),
            Path("kv.bin") + ": holds 40 tokens; the prompt's full blocks have 48");
  EXPECT_THAT(Message(RunOnPrompt({"put", "--kv", Path("none")})), HasSubstr("cannot read " + Path("none")));
  EXPECT_THAT(Message(RunOnPrompt({"get", "--kv", "/nowhere/kv.bin"})), HasSubstr("cannot write /nowhere/kv.bin"));
}

}  // namespace
}  // namespace kvist
