// A flow of control with a stack of its own, and the switch from one to another.
//
// ucontext does it too, but asks the kernel for the signal mask twice a switch, and under
// AddressSanitizer clears the shadow of a whole stack at each: that was most of the emulator's
// time. So it is left to where the switch below is not written for; AddressSanitizer is told of
// each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define PTMO_TELL_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PTMO_TELL_ASAN
#endif
#endif
#if !defined(__x86_64__) || !defined(__linux__)
#define PTMO_UCONTEXT
#undef PTMO_TELL_ASAN // it knows ucontext
#endif

#if defined(PTMO_UCONTEXT)
#include <ucontext.h>
#else
// Pushes what a callee must keep (System V ABI: six registers, the rounding modes) on this stack,
// stores its pointer at `from`, and pops the same from the stack at `to`.
extern "C" void ptmo_emulator_switch(void** from, void* to);
#endif
#if defined(PTMO_TELL_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_emulator {

class Context {
public:
  // Makes it begin at `entry`, which calls `entered` first and never returns, on the stack
  // [stack, stack + bytes).
  void start(char* stack, size_t bytes, void (*entry)()) {
#if defined(PTMO_TELL_ASAN)
    // Redzones of functions that a kernel which failed never left.
    ASAN_UNPOISON_MEMORY_REGION(stack, bytes);
    stack_ = stack;
    stack_bytes_ = bytes;
    kept_by_asan_ = nullptr;
#endif
#if defined(PTMO_UCONTEXT)
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    // From the top: where entry's caller would be (nowhere), entry, six registers, the modes.
    auto* top = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~15ull);
    uint64_t* at = top - 9;
    std::memset(at, 0, 9 * sizeof(uint64_t));
    at[7] = reinterpret_cast<uintptr_t>(entry);
    asm volatile("stmxcsr %0\n\tfnstcw %1"
                 : "=m"(*reinterpret_cast<uint32_t*>(at)),
                   "=m"(*(reinterpret_cast<uint16_t*>(at) + 2)));
    pointer_ = at;
#endif
  }
  // Goes on with `to`; returns when somebody goes on with this one.
  void switch_to(Context& to) {
#if defined(PTMO_UCONTEXT)
    swapcontext(&context_, &to.context_);
#else
#if defined(PTMO_TELL_ASAN)
    __sanitizer_start_switch_fiber(&kept_by_asan_, to.stack_, to.stack_bytes_);
#endif
    ptmo_emulator_switch(&pointer_, to.pointer_);
#if defined(PTMO_TELL_ASAN)
    __sanitizer_finish_switch_fiber(kept_by_asan_, nullptr, nullptr);
#endif
#endif
  }
  // A context has begun, from this one: whose stack is that of the thread, and learned here.
  void entered() {
#if defined(PTMO_TELL_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &stack_, &stack_bytes_);
#endif
  }

private:
#if defined(PTMO_UCONTEXT)
  ucontext_t context_{};
#else
  void* pointer_ = nullptr;
#endif
#if defined(PTMO_TELL_ASAN)
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  void* kept_by_asan_ = nullptr;
#endif
};

} // namespace cuda_emulator
