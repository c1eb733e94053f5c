#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "huge_arena.h"
#include "thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ptmo {
namespace {

// A pass over less than this is repeated: 16 MiB take a fraction of a millisecond at any speed.
constexpr size_t kLeastBytesPerPass = size_t{64} << 20;
constexpr size_t kStep = 512; // bytes of one round of eight accumulators at the widest

// XORs the words of [p, p + n), n a multiple of kStep, and returns some of the result: the cheapest
// use of a load that the compiler cannot leave out. Eight accumulators keep more loads in flight
// than a core can finish.
using ReadAll = uint64_t (*)(const uint8_t* p, size_t n);

typedef uint64_t Pair __attribute__((vector_size(16)));

uint64_t read_pairs(const uint8_t* p, size_t n) {
  Pair acc[8] = {};
  for (size_t i = 0; i < n; i += 8 * sizeof(Pair)) {
    for (size_t j = 0; j < 8; ++j) {
      Pair word;
      std::memcpy(&word, p + i + j * sizeof(Pair), sizeof(Pair));
      acc[j] ^= word;
    }
  }
  for (int j = 1; j < 8; ++j)
    acc[0] ^= acc[j];
  return acc[0][0];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* p, size_t n) {
  __m256i acc[8] = {};
  for (size_t i = 0; i < n; i += 8 * sizeof(__m256i))
    for (size_t j = 0; j < 8; ++j)
      acc[j] = _mm256_xor_si256(acc[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
                                            p + i + j * sizeof(__m256i))));
  for (int j = 1; j < 8; ++j)
    acc[0] = _mm256_xor_si256(acc[0], acc[j]);
  uint64_t words[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), acc[0]);
  return words[0];
}

__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* p, size_t n) {
  __m512i acc[8] = {};
  for (size_t i = 0; i < n; i += 8 * sizeof(__m512i))
    for (size_t j = 0; j < 8; ++j)
      acc[j] = _mm512_xor_si512(acc[j], _mm512_loadu_si512(p + i + j * sizeof(__m512i)));
  for (int j = 1; j < 8; ++j)
    acc[0] = _mm512_xor_si512(acc[0], acc[j]);
  uint64_t words[8];
  _mm512_storeu_si512(words, acc[0]);
  return words[0];
}
#endif

ReadAll widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f"))
    return read_avx512;
  if (__builtin_cpu_supports("avx2"))
    return read_avx2;
#endif
  return read_pairs;
}

} // namespace

double read_bandwidth(size_t bytes, int threads, int passes) {
  require(bytes >= kStep, "bytes=", bytes, " is less than ", kStep);
  require(passes >= 1 && passes <= 1000, "passes=", passes, " is not in 1..1000");
  ThreadPool pool(threads);
  const size_t share = std::max(bytes / static_cast<size_t>(threads) / kStep, size_t{1}) * kStep;
  const size_t total = share * static_cast<size_t>(threads);
  HugeArena arena;
  uint8_t* data = arena.allocate(total);
  const size_t repeats = std::max<size_t>(1, kLeastBytesPerPass / total);
  const ReadAll read_all = widest();
  std::atomic<uint64_t> sink{0};

  // Each share is written by the thread that reads it: its memory lies near that thread's core.
  pool.parallel_for(threads, [&](int begin, int end, int) {
    std::memset(data + static_cast<size_t>(begin) * share, 1,
                static_cast<size_t>(end - begin) * share);
  });
  std::vector<double> seconds;
  for (int pass = 0; pass <= passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(threads, [&](int begin, int end, int) {
      const size_t n = static_cast<size_t>(end - begin) * share;
      uint64_t acc = 0;
      for (size_t i = 0; i < repeats; ++i)
        acc += read_all(data + static_cast<size_t>(begin) * share, n);
      sink.fetch_add(acc, std::memory_order_relaxed);
    });
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (pass > 0)
      seconds.push_back(taken.count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + passes / 2, seconds.end());
  return static_cast<double>(total) * static_cast<double>(repeats) / seconds[passes / 2];
}

} // namespace ptmo
