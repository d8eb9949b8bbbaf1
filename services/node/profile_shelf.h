// The profiles of calibrated codecs that this node hands out to readers of its blocks, by tenant and digest.
//
// A profile is verified before it is kept: its digest, and every number of it. It never changes and is never dropped; with
// a folder it outlives the node, and is verified again at the start.
// Units   bytes of files.
// Bounds  `capacity_bytes` in all, what is being uploaded included; of a tenant's second and later ones a quarter of that.
// Threads any. Keep checks and writes on its caller's thread, one profile at a time: some tens of milliseconds and a sync
//         of the disk, once in the life of a profile.
// Why     A block of such a codec is bytes without meaning where its profile is gone, so what there is no room for is
//         refused, and nothing makes room.
#ifndef KVIST_SERVICES_NODE_PROFILE_SHELF_H_
#define KVIST_SERVICES_NODE_PROFILE_SHELF_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/node/admission.h"
#include "services/node/profile_folder.h"

namespace kvist {

struct ProfileShelfOptions {
  uint64_t capacity_bytes = 256 << 20;
  std::string folder;  // this node's alone; "" = they go with the node
};

struct ProfileShelfFigures {
  uint64_t profiles = 0, bytes = 0, capacity_bytes = 0;
  uint64_t hits = 0, misses = 0;                // of Find
  uint64_t kept = 0, refused = 0, damaged = 0;  // by Keep; by it or for want of room; files found damaged at the start
};

class ProfileShelf {
 public:
  // Errors: InvalidArgument  the folder cannot be used.
  static absl::StatusOr<std::unique_ptr<ProfileShelf>> Open(const ProfileShelfOptions& options);

  bool Has(const ProfilePlace& place) const;
  // Null if it is not here. Counted.
  std::shared_ptr<const std::string> Find(const ProfilePlace& place);

  // Room for a file of so many bytes, given back with the pass.
  // Errors: InvalidArgument    a digest that is not 16 bytes, or a size that no profile has;
  //         ResourceExhausted  there is no room: the sentence says what to do.
  absl::StatusOr<Pass> Reserve(const ProfilePlace& place, uint64_t size_bytes);

  // REQUIRES: the caller holds room for it. True if it is kept now, false if it was here.
  // Errors: InvalidArgument  the bytes are of another digest, or no profile; Unavailable  the folder.
  absl::StatusOr<bool> Keep(const ProfilePlace& place, std::string file);

  struct Entry {
    ProfilePlace place;
    uint64_t size_bytes;
  };
  std::vector<Entry> entries() const;
  ProfileShelfFigures figures() const;

 private:
  explicit ProfileShelf(const ProfileShelfOptions& options)
      : capacity_bytes_(options.capacity_bytes), folder_(options.folder) {}
  absl::Status Load(const ProfilePlace& place, std::string file);
  uint64_t BytesOf(const std::string& tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Add(const ProfilePlace& place, std::string file);

  const uint64_t capacity_bytes_;
  const ProfileFolder folder_;
  std::mutex keep_mutex_;  // taken before mutex_
  std::atomic<uint64_t> hits_ = 0, misses_ = 0, kept_ = 0, refused_ = 0, damaged_ = 0;

  mutable std::mutex mutex_;
  std::map<ProfilePlace, std::shared_ptr<const std::string>> profiles_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> reserved_ ABSL_GUARDED_BY(mutex_);  // bytes, by tenant
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_PROFILE_SHELF_H_
