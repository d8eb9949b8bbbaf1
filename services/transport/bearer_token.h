// The token that a caller shows with each call, as its file says at this moment.
//
// Why a file: a token on a command line or in the environment is seen by others on the host, and cannot be replaced.
// Threads any.
#ifndef KVIST_SERVICES_TRANSPORT_BEARER_TOKEN_H_
#define KVIST_SERVICES_TRANSPORT_BEARER_TOKEN_H_

#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvist {

class BearerToken {
 public:
  // Errors: InvalidArgument  a file that cannot be read, that others can read (secret_file.h), or that holds no token:
  //                          one line of 16 to 512 visible characters.
  static absl::StatusOr<std::shared_ptr<BearerToken>> Load(const std::string& path);

  // Looks at the file again if it did so more than a second ago; one that is wrong by now leaves the last good token.
  std::string Current();

 private:
  BearerToken(std::string path, std::string token);

  const std::string path_;
  std::mutex mutex_;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  absl::Time looked_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_BEARER_TOKEN_H_
