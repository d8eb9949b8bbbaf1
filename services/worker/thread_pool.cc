#include "services/worker/thread_pool.h"

#include <utility>

namespace kvist {

ThreadPool::~ThreadPool() {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  work_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void ThreadPool::Submit(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  if (tasks_.size() > idle_threads_ && threads_.size() < max_threads_ && !stopping_) {
    threads_.emplace_back([this] { RunTasks(); });
  }
  work_.notify_one();
}

void ThreadPool::RunTasks() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_threads_;
    work_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    --idle_threads_;
    if (tasks_.empty()) return;
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // what it held is released before the thread says that it is idle
    lock.lock();
  }
}

}  // namespace kvist
