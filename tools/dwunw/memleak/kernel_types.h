/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the kernel half and the user half of `dwunw memleak` share: the blocks, the events, the counters, and the words
 * that describe a function to its probe. For BPF and C++.
 */
#ifndef DWUNW_TOOL_MEMLEAK_KERNEL_TYPES_H
#define DWUNW_TOOL_MEMLEAK_KERNEL_TYPES_H

#include <linux/types.h>

/* ---- Blocks (blocks.bpf.h) ---- */

#define MEMLEAK_SLOTS 8 /* of a bucket */
#define MEMLEAK_TABLES 12

/* memleak_block.size: the size in the lower bits, then the kind, log2 of the number of allocations that the recorded
   one stands for, and the flag. */
#define MEMLEAK_SIZE_BITS 48
#define MEMLEAK_SIZE_MASK ((1ull << MEMLEAK_SIZE_BITS) - 1)
#define MEMLEAK_KIND_SHIFT MEMLEAK_SIZE_BITS
#define MEMLEAK_KIND_MASK 7ull
#define MEMLEAK_SHIFT_SHIFT 52
#define MEMLEAK_SHIFT_MASK 0x3full
/* A realloc of the block is under way. */
#define MEMLEAK_MOVING (1ull << 63)

/* A key is address << 16 | process, and never 0. A key with this bit belongs to a slot that is being written. */
#define MEMLEAK_KEY_BUSY (1ull << 63)
#define MEMLEAK_ADDRESS_BITS 47
#define MEMLEAK_PROCESS_BITS 16
#define MEMLEAK_PROCESSES ((1u << MEMLEAK_PROCESS_BITS) - 1) /* numbers 1 … */

struct memleak_block {
    __u64 size;
    __s64 stack; /* dwunw_get_stackid's answer: an id, or a negated reason */
    __u64 born;  /* bpf_ktime_get_ns */
};

struct memleak_bucket {
    __u64 keys[MEMLEAK_SLOTS]; /* a cache line */
    struct memleak_block blocks[MEMLEAK_SLOTS];
};

/* A slot's place, as one number: table, bucket, slot. 0: none. */
#define MEMLEAK_PLACE(table, bucket, slot) ((__u64)(table) << 40 | (__u64)(bucket) << 4 | (slot) | MEMLEAK_SLOTS)
#define MEMLEAK_PLACE_TABLE(place) ((__u32)((place) >> 40))
#define MEMLEAK_PLACE_BUCKET(place) ((__u32)((place) >> 4))
#define MEMLEAK_PLACE_SLOT(place) ((place) & (MEMLEAK_SLOTS - 1))

/* What a block was allocated by; a mapping is not in the tables. */
enum memleak_kind {
    MEMLEAK_HEAP,      /* malloc and its family */
    MEMLEAK_NEW,       /* operator new */
    MEMLEAK_NEW_ARRAY, /* operator new[] */
    MEMLEAK_KINDS,
};

/* ---- Functions: the cookie of a probe ---- */

enum memleak_operation {
    MEMLEAK_ALLOCATE = 1,  /* returns a block */
    MEMLEAK_FREE,          /* ends the block `pointer` */
    MEMLEAK_REALLOCATE,    /* replaces the block `pointer` */
    MEMLEAK_ALLOCATE_INTO, /* stores a block's address at `pointer`, and returns 0: posix_memalign */
    MEMLEAK_MAP,           /* mmap */
    MEMLEAK_UNMAP,         /* munmap */
    MEMLEAK_REMAP,         /* mremap */
    MEMLEAK_JUMP,          /* longjmp */
};

#define MEMLEAK_OPERATION(cookie) ((cookie)&0xff)
#define MEMLEAK_SIZE_ARGUMENT(cookie) ((cookie) >> 8 & 0xf)    /* counted from 1 */
#define MEMLEAK_FACTOR_ARGUMENT(cookie) ((cookie) >> 12 & 0xf) /* of a size that is a product; 0: none */
#define MEMLEAK_POINTER_ARGUMENT(cookie) ((cookie) >> 16 & 0xf)
#define MEMLEAK_KIND(cookie) ((cookie) >> 20 & 0xf)
#define MEMLEAK_COOKIE(operation, size, factor, pointer, kind)                                                         \
    ((__u64)(operation) | (__u64)(size) << 8 | (__u64)(factor) << 12 | (__u64)(pointer) << 16 | (__u64)(kind) << 20)
#define MEMLEAK_BY_INSTRUCTION (1ull << 24) /* the return is seen at return instructions */
#define MEMLEAK_GLIBC_HEADER (1ull << 25)   /* the word before a block holds its size, as glibc keeps it */
#define MEMLEAK_CALLS_FREE (1ull << 26)     /* a delete that may call free for the same block */

/* ---- Events ---- */

enum memleak_event_type {
    MEMLEAK_EVENT_MAPPED = 1,   /* address, length, stack, detail: mmap's flags */
    MEMLEAK_EVENT_UNMAPPING,    /* address, length: munmap or mremap begins */
    MEMLEAK_EVENT_UNMAP_FAILED, /* what this thread began to unmap or remap is still mapped */
    MEMLEAK_EVENT_REMAPPED, /* address: new, length: new, detail: old length (0: the old one stays), old: its address */
    MEMLEAK_EVENT_FREED,    /* while a report reads: a block that was alive when it began; old: its place */
    MEMLEAK_EVENT_PROCESS,  /* a process was seen for the first time; detail: its tgid */
    MEMLEAK_EVENT_REPLACED, /* the process has executed another program: the number's blocks are gone */
    MEMLEAK_EVENT_EXEC,     /* the same process under its new number; detail: its tgid */
    MEMLEAK_EVENT_EXIT,     /* the process has ended; detail: tgid */
    MEMLEAK_EVENT_GROW,     /* the tables are getting full */
    /* A block was freed by the wrong function; stack: of its allocation; detail: a memleak_kind, how it was freed; old:
       the stack of its free. */
    MEMLEAK_EVENT_MISMATCH,
};

struct memleak_event {
    __u32 type;
    __u16 process;
    __u16 reserved;
    __u32 tid;
    __u32 reserved2;
    __u64 time;
    __u64 address;
    __u64 length; /* of a block: its size and kind */
    __s64 stack;
    __u64 detail;
    __u64 old;
};

/* ---- Processes ---- */

struct memleak_process {
    __u32 number; /* in keys */
    __u32 flags;
};
#define MEMLEAK_PROCESS_SHARES 1u   /* a child of vfork: it runs in its parent's memory, under its parent's number */
#define MEMLEAK_PROCESS_FORKED 2u   /* it began with copies of its parent's blocks */
#define MEMLEAK_PROCESS_KNOWN 4u    /* MEMLEAK_EVENT_PROCESS was sent */
#define MEMLEAK_PROCESS_ATTACHED 8u /* it ran before the probes were attached: it has blocks that were not seen */

/* ---- Counters, in a per-CPU array ---- */

enum memleak_counter {
    MEMLEAK_ALLOCATIONS,     /* outermost calls that returned a block, and were recorded */
    MEMLEAK_FREES,           /* of blocks that were known */
    MEMLEAK_OLD_FREES,       /* of blocks from before the attach */
    MEMLEAK_OLD_FREED_BYTES, /* of these, as far as their headers tell */
    MEMLEAK_OLD_FREES_SIZED, /* those whose header told */
    MEMLEAK_STORED,          /* blocks that were put into the tables */
    MEMLEAK_REMOVED,         /* blocks that were taken out */
    MEMLEAK_REPLACED,        /* blocks whose address came again, without a free in between */
    MEMLEAK_NO_ROOM,         /* blocks that found no slot */
    MEMLEAK_EVENTS_LOST,     /* events that found the ring buffer full: mappings and ends of processes */
    MEMLEAK_SNAPSHOTS_LOST,  /* the same for MEMLEAK_EVENT_FREED */
    MEMLEAK_PROCESSES_LOST,  /* processes for which there was no number */
    MEMLEAK_ADDRESSES_LOST,  /* blocks at addresses that a key has no room for */
    MEMLEAK_MISMATCHES,
    MEMLEAK_CALLS, /* entries of probed functions, by watched processes */
    MEMLEAK_COUNTERS = 32,
};

struct memleak_counts {
    __u64 n[MEMLEAK_COUNTERS];
};

/* Sampling: entries of the table of logarithms (sampling.bpf.h). */
#define MEMLEAK_LOG_BITS 8
#define MEMLEAK_LOG_SIZE ((1u << MEMLEAK_LOG_BITS) + 1)

#endif
