// What the digests of namespaces stand for, as workers described them, and how many blocks of each were put here: so
// that a reader that hits nothing can be told of the namespace that it missed by one field.
//
// Bounds  kMaxNamespaces of them (the one not touched for longest goes first), kMaxTextBytes of text each.
// Threads any.
#ifndef KVIST_SERVICES_NODE_NAMESPACES_H_
#define KVIST_SERVICES_NODE_NAMESPACES_H_

#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvist/v1/cache.pb.h"

namespace kvist {

class Namespaces {
 public:
  static constexpr size_t kMaxNamespaces = 1024;
  static constexpr size_t kMaxTextBytes = 16 << 10;
  static constexpr size_t kMaxDifferences = 3;  // between two namespaces that are near
  static constexpr size_t kMaxNear = 4;

  // Errors: InvalidArgument  a digest that is not 16 bytes; a text that is no JSON object, too long or nested too deep.
  absl::Status Describe(const std::string& digest, const std::string& text);
  void CountBlock(const std::string& digest);

  // The described namespaces with blocks here that differ from `text` in at most kMaxDifferences fields: those of the
  // same "model" first, then by the number of fields; at most kMaxNear.
  // Errors: InvalidArgument  the text, as above.
  absl::StatusOr<std::vector<v1::NearNamespace>> Near(const std::string& digest, const std::string& text) const;

  // How the two differ, if both are described and it is in few fields: "layers is 32, asked 16". Else "".
  std::string Difference(const std::string& stored_digest, const std::string& asked_digest) const;

  size_t size() const;

 private:
  struct Entry {
    std::string text;  // "" = not described
    uint64_t blocks = 0;
    std::list<std::string>::iterator use;
  };
  Entry& Touch(const std::string& digest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::list<std::string> uses_ ABSL_GUARDED_BY(mutex_);  // the latest first
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_NAMESPACES_H_
