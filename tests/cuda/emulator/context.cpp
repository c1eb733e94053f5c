#include "context.h"

#if !defined(PTMO_UCONTEXT)
asm(R"(
  .text
  .globl ptmo_emulator_switch
  .type ptmo_emulator_switch, @function
ptmo_emulator_switch:
  .cfi_startproc
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .cfi_endproc
  .size ptmo_emulator_switch, .-ptmo_emulator_switch
  .section .note.GNU-stack, "", @progbits
  .text
)");
#endif
