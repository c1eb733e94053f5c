#include "thread_pool.h"

#include <unistd.h>

#include <algorithm>

#include "check.h"
#include "spin.h"

namespace ptmo {

ThreadPool::ThreadPool(int threads)
    : threads_(threads), claimed_(threads > 0 ? static_cast<size_t>(threads) : 0),
      owner_pid_(static_cast<int>(getpid())) {
  require(threads >= 1 && threads <= 256, "threads=", threads, " is not in 1..256");
  for (int i = 1; i < threads; ++i)
    workers_->threads.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  if (static_cast<int>(getpid()) != owner_pid_) {
    (void)workers_.release(); // joining them, or destroying what they waited on, would never end
    return;
  }
  {
    std::lock_guard<std::mutex> lock(workers_->mutex);
    stop_.store(true);
  }
  workers_->wake.notify_all();
  for (auto& worker : workers_->threads)
    worker.join();
}

// A job ends only when every share of it was claimed and run. So a share still unclaimed in `job`
// means that the job is in progress, and body_ and items_ are its own.
bool ThreadPool::claim(int share, uint64_t job) {
  auto& last = claimed_[static_cast<size_t>(share)];
  uint64_t seen = last.load();
  return seen < job && last.compare_exchange_strong(seen, job);
}

void ThreadPool::run_shares(int first, uint64_t job) noexcept {
  for (int i = 0; i < threads_; ++i) {
    const int share = (first + i) % threads_;
    if (!claim(share, job))
      continue;
    const int begin = share_begin(items_, share), end = share_begin(items_, share + 1);
    if (begin < end)
      (*body_)(begin, end, share);
    pending_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::parallel_for(int items, const std::function<void(int, int, int)>& body) {
  if (threads_ == 1 || items <= 1) {
    if (items > 0)
      body(0, items, 0);
    return;
  }
  body_ = &body;
  items_ = items;
  pending_.store(threads_, std::memory_order_relaxed);
  const uint64_t job =
      job_.fetch_add(1) +
      1; // sequentially consistent, like sleeping_: one of the two sides sees the other
  if (sleeping_.load() > 0) {
    std::lock_guard<std::mutex> lock(workers_->mutex);
    workers_->wake.notify_all();
  }
  run_shares(0, job);
  spin_until([this] { return pending_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  while (true) {
    for (int spins = 0; spins < kSpins && job_.load() == seen && !stop_.load(); ++spins) {
      relax();
      if (spins > kPatientSpins && spins % kYieldSpins == 0)
        std::this_thread::yield();
    }
    if (job_.load() == seen) {
      std::unique_lock<std::mutex> lock(workers_->mutex);
      sleeping_.fetch_add(1);
      workers_->wake.wait(lock, [&] { return job_.load() != seen || stop_.load(); });
      sleeping_.fetch_sub(1);
    }
    if (stop_.load())
      return;
    seen = job_.load();
    run_shares(thread, seen);
  }
}

} // namespace ptmo
