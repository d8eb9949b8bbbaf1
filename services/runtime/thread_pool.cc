#include "services/runtime/thread_pool.h"

#include <utility>

namespace kvist {

ThreadPool::~ThreadPool() {
  std::vector<std::unique_ptr<Thread>> threads;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  work_->NotifyAll();
  threads.clear();  // joins
}

void ThreadPool::Submit(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  if (tasks_.size() > idle_threads_ && threads_.size() < max_threads_ && !stopping_) {
    threads_.push_back(runtime_->Start([this] { RunTasks(); }));
  }
  work_->NotifyOne();
}

void ThreadPool::SetMaxThreads(size_t max_threads) {
  std::lock_guard lock(mutex_);
  max_threads_ = max_threads;
}

void ThreadPool::RunTasks() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_threads_;
    work_->WaitUntil(lock, absl::InfiniteFuture(), [this] { return stopping_ || !tasks_.empty(); });
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
