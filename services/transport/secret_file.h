// Small files that a process is configured with, some of them secret.
//
// Errors  InvalidArgument: a sentence that names what the file is for, its path, what is wrong and what to do.
// Threads pure functions over the file system.
#ifndef KVIST_SERVICES_TRANSPORT_SECRET_FILE_H_
#define KVIST_SERVICES_TRANSPORT_SECRET_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvist {

// The whole file. An empty one, and one of more than 1 MiB (the CAs of a whole operating system are 220 KiB), is wrong.
absl::StatusOr<std::string> ReadWholeFile(absl::string_view what, const std::string& path);

// Wrong if anybody but its owner may read it. A group may if root owns the file: Kubernetes mounts a Secret as root's
// and gives the process's group the right to read it; any other group is somebody else's.
absl::Status CheckPrivate(absl::string_view what, const std::string& path);

// Both.
absl::StatusOr<std::string> ReadPrivateFile(absl::string_view what, const std::string& path);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_SECRET_FILE_H_
