// One Get, one Put and one PutProfile as the node sees them, without a wire: the gRPC reactors and LocalChannel move their messages.
//
// Units   bytes.
// Threads a session is used by one thread at a time. `OnEnd` handlers are called from the node's sweep, on its thread.
// Life    a session ends with its object, by its deadline, or when the node ends it (a reader that takes nothing,
//         a writer that sends nothing, a node that stops): its pin and its reservation go at that moment, and every later call returns why. It may
//         outlive the CacheHandlers that opened it, and has ended then; parts may as well.
#ifndef KVIST_SERVICES_NODE_SESSIONS_H_
#define KVIST_SERVICES_NODE_SESSIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kvist/v1/cache.pb.h"

namespace kvist {

// Bytes of a stored block, in place: `pin` keeps them there until its last copy is gone.
struct PinnedPart {
  uint32_t item = 0;    // index of the key in the request
  uint64_t offset = 0;  // of the bytes within the block
  uint64_t size_bytes = 0;
  std::vector<absl::Span<const uint8_t>> data;  // in order; at most kMaxPartBytes in all
  std::shared_ptr<const void> pin;
};

class GetSession {
 public:
  using Message = std::variant<v1::GetHeader, PinnedPart, v1::GetTrailer>;

  // Ends the session; one that has not come to its trailer is counted as cancelled.
  virtual ~GetSession() = default;

  // The next message: per item a header and its parts in ascending offset, then the trailer, which is the last.
  // Calling it says that the reader has taken the message before; a reader that does not come back is slow.
  // Errors: DeadlineExceeded; Aborted            the node ended the session (the message says why);
  //         ResourceExhausted with a retry hint  Get streams pin as much as they may;
  //         InvalidArgument                      a layer or precision that the block does not have;
  //         FailedPrecondition                   after the trailer or an error.
  virtual absl::StatusOr<Message> Next() = 0;

  // `act` is called at most once, if the node ends the session, and should make whoever waits for the wire give up. It
  // may run while the session is being destroyed: it must own what it uses, and must not destroy the session itself.
  virtual void OnEnd(std::function<void()> act) = 0;
};

class PutSession {
 public:
  virtual ~PutSession() = default;  // aborts: the space returns

  // True: the space is reserved, parts may come. False: the block is there or being written; the Put is over, and
  // `NotStored` is its answer.
  // A copy of a block that is there is true as well: its head is taken, compared with the stored block's, and the Put
  // is over (`over`) as soon as that is done.
  // Errors: InvalidArgument                      the request is wrong;
  //         FailedPrecondition                   it has reserved already, or the node is draining and takes nothing new;
  //         Aborted                              a copy of a block that another is writing;
  //         ResourceExhausted with a retry hint  too much is under way, or the rest of the store is pinned.
  virtual absl::StatusOr<bool> Reserve(const v1::PutReserve& reserve) = 0;
  // Copies the bytes to `offset` of the block. Errors: OutOfRange  beyond what was reserved; FailedPrecondition.
  virtual absl::Status Write(uint64_t offset, absl::Span<const uint8_t> bytes) = 0;
  // True: no further part is needed, and `NotStored` is the answer.
  virtual bool over() const = 0;
  // Verifies the block and publishes it. The session is spent.
  // Errors: those of CheckBeforeCommit (block_check.h); DeadlineExceeded, Aborted as above.
  virtual absl::StatusOr<v1::PutResponse> Commit(uint64_t size_bytes) = 0;
  virtual v1::PutResponse NotStored() const = 0;

  virtual void OnEnd(std::function<void()> act) = 0;  // as of GetSession
};

// A profile that is being put. It ends with its object; the call's deadline is its wire's.
class ProfilePutSession {
 public:
  virtual ~ProfilePutSession() = default;  // gives back the room

  // True: there is room, and the bytes may come. False: the node has the profile, and the call is over.
  // Errors: those of ProfileShelf::Reserve; FailedPrecondition  it has a name already, or the node keeps no profiles.
  virtual absl::StatusOr<bool> Name(const v1::ProfileName& name) = 0;
  // The next bytes. Errors: OutOfRange  more than was said; FailedPrecondition  there is no name yet.
  virtual absl::Status Write(absl::string_view bytes) = 0;
  // Verifies all and keeps it. Errors: InvalidArgument  too few bytes; those of ProfileShelf::Keep.
  virtual absl::StatusOr<v1::PutProfileResponse> Commit() = 0;
};

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_SESSIONS_H_
