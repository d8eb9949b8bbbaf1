// A file in memory that other code of this process opens by a path, and whose content is replaced whole: whoever opens
// it sees the old content or the new, never a mixture. Each content has a modification time of its own, so that a
// reader of two such files sees that something moved in between.
//
// Threads  Replace by one thread at a time; readers whenever.
// Errors   Internal: the system gives no memory file.
#ifndef KVIST_SERVICES_TRANSPORT_MEMORY_FILE_H_
#define KVIST_SERVICES_TRANSPORT_MEMORY_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace kvist {

class MemoryFile {
 public:
  MemoryFile();
  // The path stays a file for the life of the process and may become a later MemoryFile's: gRPC's watcher may read it
  // for a moment after the last channel is gone, and must find neither another file's descriptor nor nothing there.
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  absl::Status Replace(const std::string& content);
  std::string path() const;

 private:
  int fd_ = -1;  // -1 until the first content, if no earlier file left one
};

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_MEMORY_FILE_H_
