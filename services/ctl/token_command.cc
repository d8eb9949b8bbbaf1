#include <openssl/rand.h>

#include <ostream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "services/access/access_config.h"
#include "services/ctl/commands.h"

namespace kvist {
namespace {

constexpr size_t kTokenBytes = 32;

}  // namespace

absl::Status RunToken(const Command& command, std::ostream& out) {
  std::string bytes(kTokenBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), kTokenBytes) != 1) {
    return absl::UnavailableError("this host has no randomness to make a token of");
  }
  const std::string token = absl::BytesToHexString(bytes);
  const TokenHash hash = HashToken(token);
  const absl::string_view hash_bytes(reinterpret_cast<const char*>(hash.data()), hash.size());
  const std::string line = absl::StrCat(command.token_name, " sha256:", absl::BytesToHexString(hash_bytes));
  if (absl::Status status = ParseTokens(line).status(); !status.ok()) {
    return absl::InvalidArgumentError("a token's name has 1 to 63 letters, digits, '-', '_' and '.'");
  }
  out << "For the caller's token file, which nobody else may read:\n" << token << "\n";
  out << "For the nodes' token file (--tokens):\n" << line << "\n";
  return absl::OkStatus();
}

}  // namespace kvist
