/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What memleak's kernel and user halves share.
 */
#ifndef __MEMLEAK_DWUNW_H
#define __MEMLEAK_DWUNW_H

#include <linux/types.h>

/* dwunw-added: begin the registers of an event are laid out as dwunw takes them */
#include <dwunw/unwind.h>
/* dwunw-added: end */

#define ALLOCS_MAX_ENTRIES 1000000
#define COMBINED_ALLOCS_MAX_ENTRIES 10240

/* One outstanding block; the key of its map is the block's address. */
struct alloc_info {
	__u64 size;
	__u64 timestamp_ns;
	int stack_id;
};

/* All outstanding blocks of one stack, in a word that is updated atomically. */
union combined_alloc_info {
	struct {
		__u64 total_size : 40;
		__u64 number_of_allocs : 24;
	};
	__u64 bits;
};

/* dwunw-added: begin what goes through the ring buffer for each recorded allocation */
enum dwunw_mode {
	DWUNW_MODE_OFF,	     /* bpf_get_stackid alone, nothing is sent */
	DWUNW_MODE_FALLBACK, /* both */
	DWUNW_MODE_FORCE,    /* the ring buffer alone */
};

#define DWUNW_PENDING_MAX 8
#define DWUNW_PAGE_SIZE 4096
#define DWUNW_STACK_BYTES_MIN 1024
#define DWUNW_STACK_BYTES_MAX 262144

/*
 * An allocation is known by its address and time: they find it in the map of outstanding blocks. The slice begins
 * DWUNW_RED_ZONE bytes below SP; the record's size is that of its size class, stack_len says how much of it was read.
 */
struct dwunw_event {
	__u64 address;
	__u64 timestamp_ns;
	uint64_t pt_regs[DWUNW_X86_64_PT_REGS];
	struct dwunw_pending_return pending[DWUNW_PENDING_MAX];
	__u64 stack_addr;
	__u32 stack_len;
	__u32 pending_count;
	__u8 stack[];
};
/* dwunw-added: end */

#endif /* __MEMLEAK_DWUNW_H */
