// A Channel straight to a node in the same process, without a wire: for tests, and for the simulation, which wraps it
// in a network of its own.
//
// Threads as of Channel. Calls run on the caller's thread; a GetSink is called while the session is open.
// Errors  those of CacheHandlers; DeadlineExceeded for a call that begins after its deadline.
#ifndef KVIST_SERVICES_NODE_LOCAL_CHANNEL_H_
#define KVIST_SERVICES_NODE_LOCAL_CHANNEL_H_

#include <memory>

#include "services/node/cache_handlers.h"
#include "services/runtime/runtime.h"
#include "services/transport/transport.h"

namespace kvist {

// `handlers` and `runtime` outlive the channel and its Put streams.
std::unique_ptr<Channel> NewLocalChannel(CacheHandlers* handlers, Runtime* runtime, Caller caller = Caller::Anyone());

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_LOCAL_CHANNEL_H_
