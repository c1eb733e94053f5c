// Waiting for another thread that is about to be done.
#pragma once

#include <thread>

namespace ptmo {

// About 20-50 us of polling: longer than the gap between two layers' jobs, shorter than a token.
constexpr int kSpins = 4000;

// After that many, a few microseconds, it is no gap between jobs: whoever else wants the core (the
// TEE that the caller waits for) gets it every kYieldSpins polls, and needs no idle core to wake.
constexpr int kPatientSpins = 256, kYieldSpins = 16;

// Leaves the core's resources to its other hardware thread for a moment.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls, and after kSpins polls lets other threads run between them.
template <typename Done> void spin_until(Done done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

} // namespace ptmo
