// The version of this software, as nodes and workers report it.
#ifndef KVIST_SERVICES_VERSION_H_
#define KVIST_SERVICES_VERSION_H_

namespace kvist {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace kvist

#endif  // KVIST_SERVICES_VERSION_H_
