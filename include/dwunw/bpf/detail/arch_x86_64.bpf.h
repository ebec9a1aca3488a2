/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the walk knows of x86-64: the positions of registers in struct pt_regs, and a few bytes of code. Another
 * architecture has a file with the same names.
 */
#ifndef DWUNW_BPF_DETAIL_ARCH_X86_64_H
#define DWUNW_BPF_DETAIL_ARCH_X86_64_H

/* The positions of registers in struct pt_regs (arch/x86/include/uapi/asm/ptrace.h), as words. */
#define DWUNW_PT_FP 4    /* rbp */
#define DWUNW_PT_ARG1 14 /* rdi: a function's first argument */
#define DWUNW_PT_PC 16   /* rip */
#define DWUNW_PT_CS 17
#define DWUNW_PT_SP 19 /* rsp */

/* The code segment of 64-bit user code. */
#define DWUNW_USER_CS 0x33

/* mov $15, %rax and the first byte of syscall: the kernel's return from a signal handler. */
#define DWUNW_SIGNAL_CODE 0x0f0000000fc0c748ull

/* How many bytes before a return address hold the one call that needs no decoding, and whether they do: call with a
   32-bit distance. */
#define DWUNW_CALL_BYTES 8
#define DWUNW_IS_CALL(code) (((code) >> 24 & 0xff) == 0xe8)

#endif /* DWUNW_BPF_DETAIL_ARCH_X86_64_H */
