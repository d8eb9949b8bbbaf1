// What the digests of namespaces stand for, as workers described them, and how many blocks of each were put here: so
// that a reader that hits nothing can be told of the namespace that it missed by one field. Each tenant has its own.
//
// Bounds  kMaxNamespaces of them and kMaxDescribedBytes of fields in all (the one not touched for longest goes first); a
//         text has kMaxTextBytes and kMaxFields. What is shown of a name or value is cut at kMaxShownBytes, a sentence at
//         kMaxSentenceBytes: one goes with each block of an answer. Texts are parsed once, and never under the lock,
//         which every commit takes.
// Threads any.
#ifndef KVIST_SERVICES_NODE_NAMESPACES_H_
#define KVIST_SERVICES_NODE_NAMESPACES_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cachestore/tenants.h"
#include "kvist/v1/cache.pb.h"

namespace kvist {

using NamespaceFields = std::map<std::string, std::string>;  // values as JSON, strings without their quotes

// Errors: InvalidArgument  a text that is no JSON object, too long, nested too deep, or of too many fields.
absl::StatusOr<NamespaceFields> ParseNamespace(const std::string& text);

// How the two differ: "layers is 32, asked 16; and more".
std::string NamespaceDifference(const NamespaceFields& stored, const NamespaceFields& asked);

class Namespaces {
 public:
  static constexpr size_t kMaxNamespaces = 1024;
  static constexpr size_t kMaxDescribedBytes = 4 << 20;
  static constexpr size_t kMaxTextBytes = 16 << 10;
  static constexpr size_t kMaxFields = 64;
  static constexpr size_t kMaxDifferences = 3;  // between two namespaces that are near
  static constexpr size_t kMaxNear = 4;
  static constexpr size_t kMaxShownBytes = 128;
  static constexpr size_t kMaxSentenceBytes = 512;

  // The first description of a digest stays: a digest stands for one text, and a later other one is wrong.
  // Errors: InvalidArgument  a digest that is not 16 bytes; the text, as of ParseNamespace.
  absl::Status Describe(TenantId tenant, const std::string& digest, const std::string& text);
  void CountBlock(TenantId tenant, const std::string& digest);

  // The fields of this namespace; null if nobody described it.
  std::shared_ptr<const NamespaceFields> Find(TenantId tenant, const std::string& digest) const;

  // The described namespaces with blocks here, but `digest`, that differ from `asked` in at most kMaxDifferences fields:
  // those of the same "model" first, then by the number of fields; at most kMaxNear.
  std::vector<v1::NearNamespace> Near(TenantId tenant, const std::string& digest, const NamespaceFields& asked) const;

  // Those of which most blocks were put here, the most first.
  struct Summary {
    TenantId tenant = 0;
    std::string digest;
    uint64_t blocks = 0;
    std::shared_ptr<const NamespaceFields> fields;  // null = not described
  };
  std::vector<Summary> Largest(size_t most) const;

  size_t size() const;

 private:
  using Name = std::pair<TenantId, std::string>;  // and the digest
  struct Entry {
    std::shared_ptr<const NamespaceFields> fields;  // null = not described
    size_t fields_bytes = 0;
    uint64_t blocks = 0;
    std::list<Name>::iterator use;
  };
  Entry& Touch(const Name& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops what was not touched for longest until the bounds hold.
  void Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable std::mutex mutex_;
  absl::flat_hash_map<Name, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::list<Name> uses_ ABSL_GUARDED_BY(mutex_);  // the latest first
  size_t described_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_NAMESPACES_H_
