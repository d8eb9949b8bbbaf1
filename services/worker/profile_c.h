// What a handle of the C ABI's profile holds. Internal to the C ABI.
#ifndef KVIST_SERVICES_WORKER_PROFILE_C_H_
#define KVIST_SERVICES_WORKER_PROFILE_C_H_

#include <memory>

#include "services/worker/kvist.h"
#include "services/worker/open_profile.h"

struct kvist_profile {
  std::shared_ptr<const kvist::OpenProfile> open;
};

#endif  // KVIST_SERVICES_WORKER_PROFILE_C_H_
