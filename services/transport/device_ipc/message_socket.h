// One end of the Unix socket between a node and a worker: whole messages, each behind its length as a little-endian u32.
//
// Units   bytes.
// Threads one at a time, but for `closed_by_peer`.
// Errors  Unavailable        the other end has gone, or says what is no message: close it.
//         DeadlineExceeded   nothing whole came in time; what has come is kept, a later call goes on with it.
//         ResourceExhausted  the other end does not read.
#ifndef KVIST_SERVICES_TRANSPORT_DEVICE_IPC_MESSAGE_SOCKET_H_
#define KVIST_SERVICES_TRANSPORT_DEVICE_IPC_MESSAGE_SOCKET_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"

namespace kvist {

class MessageSocket {
 public:
  static constexpr size_t kMostUnsent = size_t{16} << 20;

  // Takes the descriptor, of a socket that does not block. Messages above `longest` are none.
  MessageSocket(int fd, size_t longest) : fd_(fd), longest_(longest) {}
  ~MessageSocket();
  MessageSocket(const MessageSocket&) = delete;
  MessageSocket& operator=(const MessageSocket&) = delete;

  int fd() const { return fd_; }
  bool unsent() const { return !out_.empty(); }

  // Sends, and keeps what the socket does not take yet for Flush.
  absl::Status Send(const google::protobuf::MessageLite& message);
  absl::Status Flush();
  // A whole message that has come, or none yet. Never waits.
  absl::StatusOr<std::optional<std::string>> Receive();
  // Waits for one, and sends meanwhile what is unsent.
  absl::StatusOr<std::string> Await(absl::Duration deadline);
  // Whether the other end has closed or died, as far as the kernel knows now.
  bool closed_by_peer() const;

 private:
  std::optional<absl::StatusOr<std::string>> TakeWhole();

  const int fd_;
  const size_t longest_;
  std::string in_, out_;
};

// A Unix socket that connects to `path`. NotFound: nobody listens there.
absl::StatusOr<int> ConnectUnix(const std::string& path);
// One that listens at `path`, for this user only; a file that a dead process left is replaced.
// Errors: AlreadyExists    somebody listens there.
//         InvalidArgument  the path is longer than the kernel allows (107), or is no socket.
absl::StatusOr<int> ListenUnix(const std::string& path);

}  // namespace kvist

#endif  // KVIST_SERVICES_TRANSPORT_DEVICE_IPC_MESSAGE_SOCKET_H_
