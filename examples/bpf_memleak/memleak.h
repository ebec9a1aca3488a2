/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* A record of the ring buffer: the whole struct for an allocation, only the address for a free. */
#ifndef MEMLEAK_H
#define MEMLEAK_H

#include <dwunw/unwind.h>

#define PAGE 4096
#define SLICE_PAGES 4

struct memleak_event {
	uint64_t address, size;
	uint64_t pt_regs[DWUNW_X86_64_PT_REGS];
	uint64_t stack_addr;
	uint64_t stack_size; /* the number of bytes in `stack` that could be read */
	uint8_t stack[SLICE_PAGES * PAGE];
};

#endif
