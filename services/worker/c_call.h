// What every function of the C ABI does around its work: checks pointers, turns a Status into a code and a sentence, and
// lets no exception through.
#ifndef KVIST_SERVICES_WORKER_C_CALL_H_
#define KVIST_SERVICES_WORKER_C_CALL_H_

#include <algorithm>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/codec.h"
#include "services/worker/kvist.h"

namespace kvist {

inline std::string Text(const char* text) { return text == nullptr ? "" : text; }

template <size_t kSize>
void CopyText(const std::string& text, char (&out)[kSize]) {
  const size_t length = std::min(text.size(), kSize - 1);
  std::memcpy(out, text.data(), length);
  out[length] = '\0';
}

inline kvist_code Report(const absl::Status& status, kvist_error* error) {
  if (error != nullptr) CopyText(std::string(status.message()), error->message);
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return KVIST_OK;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return KVIST_INVALID_ARGUMENT;
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnauthenticated:
      return static_cast<kvist_code>(status.raw_code());
    default:
      return KVIST_INTERNAL;
  }
}

// Runs one function's body; what the standard library throws (memory, threads) becomes a code as well.
template <typename Body>
kvist_code Guard(kvist_error* error, Body body) {
  try {
    return Report(body(), error);
  } catch (const std::bad_alloc&) {
    return Report(absl::ResourceExhaustedError("out of memory"), error);
  } catch (const std::exception& exception) {
    return Report(absl::InternalError(exception.what()), error);
  }
}

// The arguments of a call that must not be NULL, all those that are named at once.
inline absl::Status Require(std::initializer_list<std::pair<const char*, bool>> arguments) {
  std::vector<const char*> missing;
  for (const auto& [name, given] : arguments) {
    if (!given) missing.push_back(name);
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(absl::StrJoin(missing, ", "), missing.size() == 1 ? " is NULL" : " are NULL"));
}

// `text` into the caller's memory if that is large enough; its length, NUL included, in any case.
inline void GiveText(const std::string& text, char* out, size_t capacity, size_t* needed) {
  *needed = text.size() + 1;
  if (*needed <= capacity) std::memcpy(out, text.c_str(), *needed);
}

// [layers][2][heads], or nothing where `given` is null.
inline std::vector<uint8_t> ReadTileBits(const uint8_t* given, uint32_t layers, uint32_t heads) {
  if (given == nullptr) return {};
  return {given, given + size_t{layers} * 2 * heads};
}

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_C_CALL_H_
