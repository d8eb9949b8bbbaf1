// Sockets of the shim: Unix sockets with abstract names, every wait of which ends when `stop` is set.
#ifndef KVIST_TESTS_NCCL_SHIM_LINK_H_
#define KVIST_TESTS_NCCL_SHIM_LINK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace kvist::testing {

class Link {
 public:
  Link() = default;
  explicit Link(int fd) : fd_(fd) {}
  Link(Link&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Link& operator=(Link&& other) noexcept;
  ~Link();
  bool open() const { return fd_ >= 0; }

  static Link Listen(const std::string& name);
  static Link Connect(const std::string& name, const std::atomic<bool>& stop);  // waits for the listener
  Link Accept(const std::atomic<bool>& stop) const;

  // False: the peer has gone, or `stop` is set.
  bool Write(const void* from, size_t size, const std::atomic<bool>& stop) const;
  bool Read(void* to, size_t size, const std::atomic<bool>& stop) const;

 private:
  bool Ready(short events, const std::atomic<bool>& stop) const;
  int fd_ = -1;
};

}  // namespace kvist::testing

#endif  // KVIST_TESTS_NCCL_SHIM_LINK_H_
