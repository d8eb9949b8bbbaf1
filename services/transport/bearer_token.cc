#include "services/transport/bearer_token.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/transport/secret_file.h"

namespace kvist {
namespace {

constexpr absl::Duration kLookAgain = absl::Seconds(1);
constexpr size_t kLeastBytes = 16, kMostBytes = 512;

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  absl::StatusOr<std::string> text = ReadPrivateFile("token file", path);
  if (!text.ok()) return text;
  std::string token(absl::StripAsciiWhitespace(*text));
  const bool visible = std::all_of(token.begin(), token.end(), absl::ascii_isgraph);
  if (visible && token.size() >= kLeastBytes && token.size() <= kMostBytes) return token;
  return absl::InvalidArgumentError(absl::StrCat("the token file '", path, "' holds no token: it has one line of ",
                                                 kLeastBytes, " to ", kMostBytes, " characters without spaces"));
}

}  // namespace

BearerToken::BearerToken(std::string path, std::string token)
    : path_(std::move(path)), token_(std::move(token)), looked_(absl::Now()) {}

absl::StatusOr<std::shared_ptr<BearerToken>> BearerToken::Load(const std::string& path) {
  absl::StatusOr<std::string> token = ReadToken(path);
  if (!token.ok()) return token.status();
  return std::shared_ptr<BearerToken>(new BearerToken(path, *std::move(token)));
}

std::string BearerToken::Current() {
  std::lock_guard lock(mutex_);
  if (absl::Now() - looked_ < kLookAgain) return token_;
  looked_ = absl::Now();
  absl::StatusOr<std::string> token = ReadToken(path_);
  if (token.ok()) token_ = *std::move(token);
  return token_;
}

}  // namespace kvist
