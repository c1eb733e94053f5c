// The pool runs every item once, in the same shares every time, over and over.
#include "check.h"
#include "samples.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "common/thread_pool.h"

namespace ptmo::test {

TEST(every_item_runs_exactly_once_in_contiguous_shares) {
  for (const int threads : {1, 2, 3, 4, 7}) {
    ThreadPool pool(threads);
    CHECK_EQ(pool.size(), threads);
    for (const int items : {1, 2, 3, 4, 5, 7, 8, 16, 33, 100, 1000}) {
      std::vector<int> runs(static_cast<size_t>(items), 0), owner(runs.size(), -1);
      std::atomic<int> calls{0};
      std::atomic<bool> sane{true};
      pool.parallel_for(items, [&](int begin, int end, int thread) {
        ++calls;
        if (begin < 0 || begin >= end || end > items || thread < 0 || thread >= threads)
          sane = false;
        for (int i = begin; i < end && sane; ++i) {
          ++runs[i];
          owner[i] = thread;
        }
      });
      set_context("threads ", threads, " items ", items);
      CHECK(sane);
      CHECK(calls.load() <= threads);
      for (int i = 0; i < items; ++i) {
        CHECK_EQ(runs[i], 1);
        CHECK(i == 0 || owner[i] >= owner[i - 1]);
      }
    }
  }
}

TEST(no_items_means_no_call) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    int calls = 0;
    pool.parallel_for(0, [&](int, int, int) { ++calls; });
    CHECK_EQ(calls, 0);
  }
}

TEST(shares_are_the_same_every_time) {
  ThreadPool pool(3);
  std::vector<int> first(50), again(50);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<int>& owner = trial == 0 ? first : again;
    pool.parallel_for(50, [&](int begin, int end, int thread) {
      for (int i = begin; i < end; ++i)
        owner[i] = thread;
    });
    if (trial > 0)
      CHECK(same_bits(first, again));
  }
}

TEST(a_pool_serves_ten_thousand_jobs_and_their_writes_are_seen) {
  ThreadPool pool(3);
  std::vector<int64_t> cells(37, 0);
  for (int job = 0; job < 10000; ++job) {
    const int items = 1 + job % 37;
    pool.parallel_for(items, [&](int begin, int end, int) {
      for (int i = begin; i < end; ++i)
        cells[i] += job; // plain memory: a lost or doubled share changes the sum
    });
  }
  for (int i = 0; i < 37; ++i) {
    int64_t want = 0;
    for (int job = 0; job < 10000; ++job)
      want += job % 37 >= i ? job : 0;
    CHECK_EQ(cells[i], want);
  }
}

TEST(workers_that_fell_asleep_wake_for_the_next_job) {
  ThreadPool pool(4);
  for (int trial = 0; trial < 20; ++trial) {
    std::this_thread::sleep_for(std::chrono::milliseconds(trial % 4)); // longer than they spin
    std::atomic<int> sum{0};
    pool.parallel_for(8, [&](int begin, int end, int) { sum += end - begin; });
    CHECK_EQ(sum.load(), 8);
  }
}

TEST(one_thread_runs_on_the_caller_in_one_piece) {
  ThreadPool pool(1);
  const std::thread::id caller = std::this_thread::get_id();
  int calls = 0;
  pool.parallel_for(9, [&](int begin, int end, int thread) {
    ++calls;
    CHECK_EQ(begin, 0);
    CHECK_EQ(end, 9);
    CHECK_EQ(thread, 0);
    CHECK(std::this_thread::get_id() == caller);
  });
  CHECK_EQ(calls, 1);
}

TEST(pools_come_and_go_without_a_job) {
  for (int i = 0; i < 50; ++i)
    ThreadPool pool(1 + i % 4);
}

TEST(a_forked_child_lets_a_pool_go_though_its_threads_are_not_there) {
  for (const int sleep_ms : {0, 5}) { // workers that poll, workers that sleep
    auto pool = std::make_unique<ThreadPool>(4);
    pool->parallel_for(8, [](int, int, int) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(sleep_ms));
    const pid_t child = fork();
    if (child == 0) {
      alarm(20); // a child that hangs dies of it
      pool.reset();
      _exit(0);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    std::atomic<int> sum{0};
    pool->parallel_for(8, [&](int begin, int end, int) { sum += end - begin; });
    CHECK_EQ(sum.load(), 8);
  }
}

TEST(thread_counts_out_of_range_are_refused) {
  CHECK_THROWS(ThreadPool(0), std::invalid_argument, "threads=0");
  CHECK_THROWS(ThreadPool(-1), std::invalid_argument, "threads=-1");
  CHECK_THROWS(ThreadPool(257), std::invalid_argument, "threads=257");
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
