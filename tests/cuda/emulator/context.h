// A flow of control with a stack of its own, and the switch from one to another.
//
// ucontext does it too, but asks the kernel for the signal mask twice a switch, which was most of
// the emulator's time; AddressSanitizer knows ucontext, so its builds keep that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define PTMO_UCONTEXT
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PTMO_UCONTEXT
#endif
#endif
#if !defined(__x86_64__) || !defined(__linux__)
#undef PTMO_UCONTEXT
#define PTMO_UCONTEXT
#endif

#if defined(PTMO_UCONTEXT)
#include <ucontext.h>
#else
// Pushes what a callee must keep (System V ABI: six registers, the rounding modes) on this stack,
// stores its pointer at `from`, and pops the same from the stack at `to`.
extern "C" void ptmo_emulator_switch(void** from, void* to);
#endif

namespace cuda_emulator {

class Context {
public:
  // Makes it begin at `entry`, which never returns, on the stack [stack, stack + bytes).
  void start(char* stack, size_t bytes, void (*entry)()) {
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
    ptmo_emulator_switch(&pointer_, to.pointer_);
#endif
  }

private:
#if defined(PTMO_UCONTEXT)
  ucontext_t context_{};
#else
  void* pointer_ = nullptr;
#endif
};

} // namespace cuda_emulator
