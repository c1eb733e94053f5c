// A small pool with a static split: share i of a loop is always the same range, so results do not
// depend on timing. Thread i starts with share i; whoever is done takes shares nobody has begun,
// so that a worker which the system has put aside does not hold a loop up. Workers spin briefly
// between jobs, then sleep: they are parked while the caller waits for the TEE.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ptmo {

class ThreadPool {
public:
  explicit ThreadPool(int threads); // 1..256, counting the calling thread
  ~ThreadPool(); // in a forked child, which has none of the threads: lets them go
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return threads_; }
  // Where share `share` of a loop over `items` begins (size(): where the last one ends).
  int share_begin(int items, int share) const {
    return static_cast<int>(int64_t{items} * share / threads_);
  }

  // Splits [0, items) into size() contiguous shares and runs body(begin, end, share) on each that
  // is not empty; returns when all are done. `share` is in [0, size()) and no two calls of a loop
  // have the same: scratch may hang on it. A `body` that throws ends the process. One caller at a
  // time.
  void parallel_for(int items, const std::function<void(int, int, int)>& body);

private:
  void work(int thread);
  void run_shares(int first, uint64_t job) noexcept;
  bool claim(int share, uint64_t job);

  const int threads_;
  const std::function<void(int, int, int)>* body_ = nullptr;
  int items_ = 0;
  std::atomic<uint64_t> job_{0};
  std::atomic<int> pending_{0};                // shares of the job that are not finished
  std::vector<std::atomic<uint64_t>> claimed_; // the last job each share was taken in
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  struct Workers {
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<std::thread> threads;
  };
  std::unique_ptr<Workers> workers_ = std::make_unique<Workers>();
  const int owner_pid_;
};

} // namespace ptmo
