// What a namespace's digest stands for, as text that nodes keep and operators read (Describe, Explain).
//
// Threads pure.
#ifndef KVIST_SERVICES_WORKER_NAMESPACE_TEXT_H_
#define KVIST_SERVICES_WORKER_NAMESPACE_TEXT_H_

#include <string>

#include "services/worker/keys.h"

namespace kvist {

inline constexpr size_t kMaxNamespaceText = 16 << 10;  // of DescribeRequest

// A JSON object of the fields, each by its name in Namespace. The salt keeps tenants apart and is no one else's
// business: its place holds the first bytes of its SHA-256. "" if the text would be too long; then nobody is told.
std::string NamespaceText(const Namespace& ns);

}  // namespace kvist

#endif  // KVIST_SERVICES_WORKER_NAMESPACE_TEXT_H_
