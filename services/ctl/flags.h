// The command line of `kvist`: one struct, filled and validated in one place.
#ifndef KVIST_SERVICES_CTL_FLAGS_H_
#define KVIST_SERVICES_CTL_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/codec.h"
#include "services/transport/tls.h"

namespace kvist {

enum class Act { kPut, kGet, kMatch, kExplain, kStats, kErase, kRing, kDrain, kTop, kToken, kProfile };
enum class ProfileAct { kShow, kPut, kGet };

// 32 hex digits: what names a profile, and no file.
bool IsDigest(const std::string& text);

struct Command {
  Act act = Act::kStats;
  std::string cluster_file;        // or
  std::vector<std::string> seeds;  // "host:port" of nodes that are asked for the view
  std::string namespace_file, kv_file;
  std::string tokens_file, chain_file;  // one of the two
  TlsOptions tls;                       // no files = plaintext
  std::string bearer_file;              // holds the token to show to nodes; "" = none
  bool json = false;
  absl::Duration deadline = absl::Seconds(10);
  Codec codec = Codec::kLadder;
  float floor_db = 0;
  int key_bits = 0, value_bits = 0;  // of codes; 0 = the codec's own
  float mean_bits = 0;               // shared out among heads by the profile; 0 = all heads alike
  int threads = 2;
  int replicas = 1;
  uint64_t keys = 100000, seed = 1;            // of `ring` without a prompt
  std::string node_id;                         // of `drain`
  absl::Duration drain_deadline;               // of the hand-over; 0 = the node's own
  uint64_t drain_budget_bytes = 0;             // 0 = the node's own
  absl::Duration interval = absl::Seconds(2);  // of `top`, between two looks
  bool once = false;                           // of `top`: one frame
  std::string token_name;                      // of `token`
  std::string profile_file;                    // that codec q works with; "" = none, or what nodes have
  ProfileAct profile_act = ProfileAct::kShow;  // of `profile`
  std::string profile;                         // of `profile`: a file, or 32 hex digits
  std::string output_file;                     // of `profile get`
};

struct ParsedCommand {
  Command command;
  std::string print_and_exit;  // help or version, if asked for
};

// Errors: InvalidArgument names every flag that is wrong, unknown or missing, one a line.
absl::StatusOr<ParsedCommand> ParseCommand(int argc, const char* const* argv);

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_FLAGS_H_
