// The folder in which a node's profiles outlive it: one file each, DIGEST.kvp, or DIGEST@TENANT.kvp of a tenant.
//
// Threads one at a time.
// Errors  Unavailable: the folder cannot be read or written; the sentence names the file.
// Why     A file appears whole or not at all: it is written beside, synced, renamed, and the folder is synced. It is
//         read at the start only, and then checked by its digest: whoever edits one makes it another profile.
#ifndef KVIST_SERVICES_NODE_PROFILE_FOLDER_H_
#define KVIST_SERVICES_NODE_PROFILE_FOLDER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace kvist {

// What a profile is kept under.
struct ProfilePlace {
  std::string tenant;  // name; "" = none
  std::string digest;  // 16 bytes
  friend auto operator<=>(const ProfilePlace&, const ProfilePlace&) = default;
};

class ProfileFolder {
 public:
  // "" = there is none: nothing is read, and what is written goes nowhere.
  explicit ProfileFolder(std::string path) : path_(std::move(path)) {}

  // Makes the folder if it is not there, takes away what a crash has left, and hands out each file by its name. A file
  // that `take` finds damaged (DataLoss) is removed; any other file is left alone.
  absl::Status Read(const std::function<absl::Status(const ProfilePlace& place, std::string file)>& take) const;

  absl::Status Write(const ProfilePlace& place, const std::string& file) const;

 private:
  const std::string path_;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PROFILE_FOLDER_H_
