// What ThreadSanitizer is told not to report in tests that link this.
//
// The last holder of an absl::Status deletes its message. Who is the last is decided by an atomic count, in Debian's
// libabsl_status.so, which is not built for ThreadSanitizer: it sees the deletion and not the count before it, and takes a
// read of the message by an earlier holder for a race with it. Only reports of that deletion are dropped; two threads that
// use one Status object without a lock are still reported, since those accesses are in our own code.
#if defined(__SANITIZE_THREAD__)
extern "C" const char* __tsan_default_suppressions() { return "race:absl::*::Status::Unref\n"; }
#endif
