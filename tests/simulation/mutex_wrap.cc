// The linker sends calls of pthread_mutex_* from code of this program here (--wrap, see BUILD). Within a fiber the
// scheduler decides who gets the mutex; elsewhere, and in shared libraries, they are the system's.
#include <cerrno>

#include "tests/simulation/sim_runtime.h"

using kvist::simulation::Scheduler;

extern "C" {

int __real_pthread_mutex_lock(pthread_mutex_t* mutex);
int __real_pthread_mutex_trylock(pthread_mutex_t* mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t* mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t* mutex) {
  Scheduler* const scheduler = Scheduler::OfThisFiber();
  if (scheduler == nullptr) return __real_pthread_mutex_lock(mutex);
  scheduler->LockMutex(mutex);
  return 0;
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t* mutex) {
  const int result = __real_pthread_mutex_trylock(mutex);
  Scheduler* const scheduler = Scheduler::OfThisFiber();
  if (result == 0 && scheduler != nullptr) scheduler->CountTryLock();
  return result;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t* mutex) {
  const int result = __real_pthread_mutex_unlock(mutex);
  Scheduler* const scheduler = Scheduler::OfThisFiber();
  if (scheduler != nullptr) scheduler->UnlockMutex(mutex);
  return result;
}

}  // extern "C"
