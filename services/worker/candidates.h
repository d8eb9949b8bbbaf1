// In which order the nodes that may hold a segment are asked for its blocks. Internal to services/worker.
//
// Threads pure, but for chance and for what the links know of their nodes' load.
#ifndef KVIST_SERVICES_WORKER_CANDIDATES_H_
#define KVIST_SERVICES_WORKER_CANDIDATES_H_

#include <vector>

#include "services/runtime/runtime.h"
#include "services/worker/node_link.h"
#include "services/worker/segments.h"

namespace kvist {

// Where Match found the segment, or its owner; if it is hot, the less loaded of two holders; then all others. Each once.
std::vector<size_t> CandidatesOf(const Segment& segment, const LinkedView& view, Runtime* runtime);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_CANDIDATES_H_
