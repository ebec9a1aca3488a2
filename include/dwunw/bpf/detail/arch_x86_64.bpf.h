/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * All that the walk in BPF knows of x86-64. Another architecture has a file with the same names; detail/arch.bpf.h
 * chooses. Macros only: C, C++ and BPF programs include it.
 */
#ifndef DWUNW_BPF_DETAIL_ARCH_X86_64_H
#define DWUNW_BPF_DETAIL_ARCH_X86_64_H

/* The number of words in struct pt_regs (arch/x86/include/uapi/asm/ptrace.h), and the positions of registers. */
#define DWUNW_BPF_PT_REGS 21
#define DWUNW_PT_FP 4    /* rbp */
#define DWUNW_PT_ARG1 14 /* rdi: a function's first argument */
#define DWUNW_PT_PC 16   /* rip */
#define DWUNW_PT_CS 17
#define DWUNW_PT_SP 19 /* rsp */

/* Whether these are the registers of 64-bit user code: by the code segment. */
#define DWUNW_IS_USER(regs) (((regs)[DWUNW_PT_CS] & 0xffff) == 0x33)

/* The most bits that a user address has: 47 with 4-level paging, 56 with 5-level paging. */
#define DWUNW_BPF_ADDRESS_BITS 56
/* The bits of a pc in the key of the pc → rule cache, which does not hold wider ones. */
#define DWUNW_BPF_PC_BITS 47

/* Bytes below SP that rules may read (psABI §3.2.2). */
#define DWUNW_BPF_RED_ZONE 128

/* The address that a stored return address means: without its signature. Functions sign none. */
#define DWUNW_RETURN_ADDRESS(word) (word)

/* The bytes that a return instruction takes off the stack: the return address. */
#define DWUNW_RETURN_POPS 8

/* mov $15, %rax and the first byte of syscall: the kernel's return from a signal handler. */
#define DWUNW_SIGNAL_CODE 0x0f0000000fc0c748ull

/* How many bytes before a return address hold the one call that needs no decoding, and whether they do: call with a
   32-bit distance. */
#define DWUNW_CALL_BYTES 8
#define DWUNW_IS_CALL(code) (((code) >> 24 & 0xff) == 0xe8)

/* The fields of the kernel's thread_struct, and the one that has the address of the thread's control block. */
#define DWUNW_THREAD_FIELDS unsigned long fsbase;
#define DWUNW_THREAD_BLOCK thread.fsbase

/* musl keeps SP in a jmp_buf as it is. glibc keeps it XORed with a word of the thread's control block and rotated. */
#define DWUNW_JMP_BUF_SP 48
#define DWUNW_POINTER_GUARD 0x30
#define DWUNW_JMP_BUF_PLAIN(word, guard) (((word) >> 17 | (word) << 47) ^ (guard))

#endif /* DWUNW_BPF_DETAIL_ARCH_X86_64_H */
