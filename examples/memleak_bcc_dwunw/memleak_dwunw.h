/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The types that memleak's kernel and user halves share.
 */
#ifndef __MEMLEAK_DWUNW_H
#define __MEMLEAK_DWUNW_H

#include <linux/types.h>

#define ALLOCS_MAX_ENTRIES 1000000
#define COMBINED_ALLOCS_MAX_ENTRIES 10240

/* One outstanding block; the key of its map is the block's address. */
struct alloc_info {
	__u64 size;
	__u64 timestamp_ns;
	int stack_id;
	__u32 dwunw_image; /* dwunw-added: which of the programs that the process has executed since the start */
	__s64 dwunw_id;	   /* dwunw-added: the stack by DWARF; negative: why there is none */
};

/* All outstanding blocks of one stack, in a word that is updated atomically. */
union combined_alloc_info {
	struct {
		__u64 total_size : 40;
		__u64 number_of_allocs : 24;
	};
	__u64 bits;
};

/* dwunw-added: begin modes, and what the probes of dwunw_probes.bpf.h have for a cookie */
enum dwunw_mode {
	DWUNW_MODE_OFF,	     /* only bpf_get_stackid */
	DWUNW_MODE_FALLBACK, /* DWARF, and bpf_get_stackid if that stack is lost */
	DWUNW_MODE_FORCE,    /* only DWARF */
};

enum dwunw_function {
	DWUNW_MALLOC = 1,
	DWUNW_CALLOC,
	DWUNW_REALLOC,
	DWUNW_MMAP,
	DWUNW_MREMAP,
	DWUNW_POSIX_MEMALIGN,
	DWUNW_MEMALIGN,
	DWUNW_FREE,
	DWUNW_MUNMAP,
	DWUNW_VALLOC,
	DWUNW_PVALLOC,
	DWUNW_ALIGNED_ALLOC,
	DWUNW_LONGJMP, /* of all its names */
};

/* dwunw/bpf_attach.h's DWUNW_ATTACH_COOKIE_RESULT_IN_RDI, which BPF programs cannot include */
#define DWUNW_RESULT_IN_PARM1 (1ull << 63)
/* dwunw-added: end */

#endif /* __MEMLEAK_DWUNW_H */
