/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the walker in BPF (dwunw.bpf.h) and its loader (libdwunw_bpf.a) share: the one place where these layouts are
 * written down. C, C++ and BPF. Not an interface of its own: both halves are of one version.
 *
 * The pool holds modules' tables, in cells of 8 bytes. A table is the compiled one of doc/table_format.md, its arrays
 * unchanged, except that a rule is one word here:
 *
 *     header   struct dwunw_pool_table, in whole cells
 *     pages    u32 each, 2 a cell
 *     units    u16 each, 4 a cell
 *     rules    a word each, entry n ≥ 2 being word n − 2
 *     overflow { u32 unit, u32 entry } each
 */
#ifndef DWUNW_BPF_DWUNW_TYPES_H
#define DWUNW_BPF_DWUNW_TYPES_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#ifdef __cplusplus
#define DWUNW_ASSERT(condition) static_assert(condition, #condition)
#else
#define DWUNW_ASSERT(condition) _Static_assert(condition, #condition)
#endif

/*
 * Why the kernel did not finish a stack, once: X(name, value, text). Negated, it is what dwunw_get_stackid returns
 * where there is no stack id. Up to DWUNW_BPF_LAST_FALLBACK a stack goes to user space, and has an id like any other.
 */
#define DWUNW_BPF_REASON_LIST(X)                                                                                       \
    X(DWUNW_BPF_COMPLETE, 0, "complete")                                                                               \
    X(DWUNW_BPF_CHANGED, 1, "the process's map has changed since it was published")                                    \
    X(DWUNW_BPF_NO_MAPPING, 2, "no code is mapped at this address")                                                    \
    X(DWUNW_BPF_ANONYMOUS, 3, "code without a file")                                                                   \
    X(DWUNW_BPF_NO_TABLE, 4, "a module without usable call-frame information")                                         \
    X(DWUNW_BPF_NO_ROOM, 5, "a module whose table found no room")                                                      \
    X(DWUNW_BPF_GAP, 6, "no call-frame information at this address")                                                   \
    X(DWUNW_BPF_COMPLEX, 7, "a rule for the full interpreter")                                                         \
    X(DWUNW_BPF_UNREADABLE, 8, "memory unreadable")                                                                    \
    X(DWUNW_BPF_REGISTER, 9, "register value unknown")                                                                 \
    X(DWUNW_BPF_NO_PROGRESS, 10, "no progress")                                                                        \
    X(DWUNW_BPF_TRAMPOLINE, 11, "a pending return that is not known")                                                  \
    X(DWUNW_BPF_NO_CALL, 12, "a return to where no call may have been")                                                \
    X(DWUNW_BPF_FRAME_LIMIT, 13, "frame limit of the kernel's walk")                                                   \
    X(DWUNW_BPF_NOT_PUBLISHED, 14, "more executable mappings than are published")                                      \
    X(DWUNW_BPF_FORCED, 15, "user walk asked for")                                                                     \
    X(DWUNW_BPF_UNKNOWN_PROCESS, 16, "the process is not known")                                                       \
    X(DWUNW_BPF_NOT_USER, 17, "not 64-bit user registers")                                                             \
    X(DWUNW_BPF_BUSY, 18, "a walk of the same thread was interrupted")                                                 \
    X(DWUNW_BPF_NO_SCRATCH, 19, "no room for a walk's state")                                                          \
    X(DWUNW_BPF_DROPPED, 20, "the ring buffer is full")                                                                \
    X(DWUNW_BPF_LIMITED, 21, "too many new stacks behind one path")                                                    \
    X(DWUNW_BPF_KERNEL_ONLY_END, 22, "for user space, which was not wanted")

enum dwunw_bpf_reason {
#define DWUNW_BPF_REASON_ENUM(name, value, text) name = (value),
    DWUNW_BPF_REASON_LIST(DWUNW_BPF_REASON_ENUM)
#undef DWUNW_BPF_REASON_ENUM
};
#define DWUNW_BPF_LAST_FALLBACK DWUNW_BPF_FORCED
#define DWUNW_BPF_REASONS 23
DWUNW_ASSERT(DWUNW_BPF_KERNEL_ONLY_END + 1 == DWUNW_BPF_REASONS);

/*
 * A stack id is at least 1 << 32, which no id of a BPF_MAP_TYPE_STACK_TRACE is, and positive as __s64. One with this
 * bit was left to user space, which may have found an incomplete stack.
 */
#define DWUNW_BPF_ID_LEFT (1ull << 62)

/* dwunw_get_stackid's flags. */
enum {
    /* Never send registers and stack bytes: what the kernel cannot walk has no id. */
    DWUNW_KERNEL_ONLY = 1u << 0,
    /* Do not walk here, send them at once. */
    DWUNW_USER_ONLY = 1u << 1,
    /* ctx stands at a return instruction: the stack is the caller's, as a return probe has it. */
    DWUNW_AT_RETURN_INSTRUCTION = 1u << 2,
};

/* Counters beside the reasons', in one per-CPU array: reason n is counter n. */
enum dwunw_bpf_counter {
    DWUNW_BPF_WALKS = 32,
    DWUNW_BPF_FRAMES,
    DWUNW_BPF_CACHE_MISSES,
    DWUNW_BPF_NEW_STACKS,     /* sent with their frames */
    DWUNW_BPF_SENT_WALKS,     /* sent as registers and stack bytes */
    DWUNW_BPF_DEDUPLICATED,   /* of those that would have been, known already */
    DWUNW_BPF_FAILED_INSERTS, /* an id could not be noted as sent: it will be sent again */
    DWUNW_BPF_NEED_PROCESS,   /* a process's map was asked for */
    DWUNW_BPF_NEED_DROPPED,   /* and the ring buffer was full */
    DWUNW_BPF_TRAMPOLINE_FRAMES,
    DWUNW_BPF_LINKER_EVENTS,
    DWUNW_BPF_LOST_CALLS,        /* dwunw_calls.bpf.h: no memory for a call */
    DWUNW_BPF_OTHER_STACK_CALLS, /* a call was left alone: another one may be pending on another stack */
    DWUNW_BPF_ABANDONED_CALLS,   /* a pending call was left without a return */
    DWUNW_BPF_COUNTERS = 64,     /* a power of two: it is a mask */
};
DWUNW_ASSERT(DWUNW_BPF_REASONS <= DWUNW_BPF_WALKS);

#define DWUNW_BPF_MAX_FRAMES 512     /* with bpf_loop; a power of two: it is a mask */
#define DWUNW_BPF_MAX_FRAMES_OLD 128 /* in the form for older kernels */
#define DWUNW_BPF_MAPPING_STEPS 13
#define DWUNW_BPF_MAX_MAPPINGS ((1u << DWUNW_BPF_MAPPING_STEPS) - 1) /* of one process */
#define DWUNW_BPF_BLOCK_STEPS 11                                     /* a block has at most 1,024 rows */
#define DWUNW_BPF_OVERFLOW_STEPS 24
#define DWUNW_BPF_WINDOW 2048 /* bytes of stack read at a time */
#define DWUNW_BPF_RED_ZONE 128
#define DWUNW_BPF_PENDING_MAX 64 /* the kernel's MAX_URETPROBE_DEPTH */
#define DWUNW_BPF_PT_REGS 21
#define DWUNW_BPF_PID_NAMESPACES 33 /* within each other: the kernel's MAX_PID_NS_LEVEL, and the initial one */
#define DWUNW_BPF_PAGE 4096
#define DWUNW_BPF_SLICE_MAX 65536
DWUNW_ASSERT(DWUNW_BPF_SLICE_MAX / DWUNW_BPF_PAGE + 1 <= 32); /* dwunw_walk_event.pages */
DWUNW_ASSERT((DWUNW_BPF_MAX_FRAMES & (DWUNW_BPF_MAX_FRAMES - 1)) == 0);
DWUNW_ASSERT(DWUNW_BPF_WINDOW <= DWUNW_BPF_PAGE);

/* Of a user address, at most: 47 with 4-level paging, 56 with 5-level paging. */
#define DWUNW_BPF_ADDRESS_BITS 56

/* The pc → rule cache: a power of two. */
#ifndef DWUNW_BPF_CACHE_BITS
#define DWUNW_BPF_CACHE_BITS 13
#endif
/* Of a pc in an entry's key. With 5-level paging there are addresses above those, which the cache leaves out. */
#define DWUNW_BPF_PC_BITS 47
#define DWUNW_BPF_GENERATION_BITS 16
#define DWUNW_BPF_MAX_GENERATION ((1u << DWUNW_BPF_GENERATION_BITS) - 1)
DWUNW_ASSERT(DWUNW_BPF_PC_BITS + 1 + DWUNW_BPF_GENERATION_BITS == 64);

struct dwunw_cached_rule {
    __u64 key; /* pc, exact, generation, mixed with a hash of `rule` */
    __u64 rule;
};
DWUNW_ASSERT(sizeof(struct dwunw_cached_rule) == 16);

/*
 * A rule in one word. Offsets are in bytes, signed, except the addend, in words.
 *
 *     63–42  cfa offset
 *     41–26  fp offset
 *     25–15  ra offset
 *     14–9   addend; of PLT the byte of 16 from which on CFA is 8 more
 *     8–7    ra: how      6–4  fp: how      3  signal frame      2–0  cfa: how
 *
 * No rule is 0.
 */
enum dwunw_rule_cfa {
    DWUNW_RULE_CFA_SP,        /* SP + offset */
    DWUNW_RULE_CFA_FP,        /* FP + offset */
    DWUNW_RULE_CFA_AT_SP,     /* [SP + offset] + 8 × addend */
    DWUNW_RULE_CFA_AT_FP,     /* [FP + offset] + 8 × addend */
    DWUNW_RULE_CFA_PLT,       /* SP + offset + ((pc & 15) ≥ addend ? 8 : 0) */
    DWUNW_RULE_CFA_ROOT,      /* RA is undefined */
    DWUNW_RULE_CFA_ELSEWHERE, /* this rule is not for the kernel */
};
enum dwunw_rule_fp {
    DWUNW_RULE_FP_SAME,
    DWUNW_RULE_FP_AT_CFA,
    DWUNW_RULE_FP_AT_SP,
    DWUNW_RULE_FP_AT_FP,
    DWUNW_RULE_FP_CFA_PLUS,
    DWUNW_RULE_FP_UNDEFINED,
};
enum dwunw_rule_ra {
    DWUNW_RULE_RA_AT_CFA,
    DWUNW_RULE_RA_AT_SP,
    DWUNW_RULE_RA_AT_FP,
};
#define DWUNW_RULE_SIGNAL (1u << 3)
#define DWUNW_RULE_FP_SHIFT 4
#define DWUNW_RULE_RA_SHIFT 7
#define DWUNW_RULE_ADDEND_SHIFT 9
#define DWUNW_RULE_ADDEND_BITS 6
#define DWUNW_RULE_RA_OFFSET_SHIFT 15
#define DWUNW_RULE_RA_OFFSET_BITS 11
#define DWUNW_RULE_FP_OFFSET_SHIFT 26
#define DWUNW_RULE_FP_OFFSET_BITS 16
#define DWUNW_RULE_CFA_OFFSET_SHIFT 42
#define DWUNW_RULE_CFA_OFFSET_BITS 22
DWUNW_ASSERT(DWUNW_RULE_CFA_OFFSET_SHIFT + DWUNW_RULE_CFA_OFFSET_BITS == 64);
DWUNW_ASSERT(DWUNW_RULE_FP_OFFSET_SHIFT + DWUNW_RULE_FP_OFFSET_BITS == DWUNW_RULE_CFA_OFFSET_SHIFT);
DWUNW_ASSERT(DWUNW_RULE_RA_OFFSET_SHIFT + DWUNW_RULE_RA_OFFSET_BITS == DWUNW_RULE_FP_OFFSET_SHIFT);
DWUNW_ASSERT(DWUNW_RULE_ADDEND_SHIFT + DWUNW_RULE_ADDEND_BITS == DWUNW_RULE_RA_OFFSET_SHIFT);
/* A signed field of a rule. */
#define DWUNW_RULE_FIELD(rule, name)                                                                                   \
    ((__s64)((rule) << (64 - DWUNW_RULE_##name##_SHIFT - DWUNW_RULE_##name##_BITS)) >> (64 - DWUNW_RULE_##name##_BITS))

/* A table in the pool; offsets in cells from the header on. */
struct dwunw_pool_table {
    __u32 page_count;
    __u32 units_at;
    __u32 rules_at;
    __u32 overflow_at;
    __u32 overflow_count;
    __u32 reserved;
};
#define DWUNW_BPF_TABLE_CELLS 3
DWUNW_ASSERT(sizeof(struct dwunw_pool_table) == DWUNW_BPF_TABLE_CELLS * 8);

enum dwunw_mapping_kind {
    DWUNW_MAPPING_MODULE = 0,
    /* else a reason to stop: DWUNW_BPF_ANONYMOUS, _NO_TABLE, _NO_ROOM */
};

/* An executable mapping. Those of one process lie one after the other, ascending. */
struct dwunw_mapping {
    __u64 start;
    __u64 end;
    __u64 origin; /* the run address of the table's first page */
    __u32 table;  /* its header's cell */
    __u32 kind;   /* enum dwunw_mapping_kind, or a reason */
};
DWUNW_ASSERT(sizeof(struct dwunw_mapping) == 32);

/* Fewer changes of a map than this cannot have put a module in another's place and back, unseen. An exec is so many. */
#define DWUNW_BPF_HIDING_CHANGES 4

/*
 * A published process. `lock` is odd while user space writes; a reader that sees it odd, or changed, has seen nothing.
 * `changes` and `execs` are the kernel's: what may have changed the map, and programs executed. Two things are
 * published:
 *
 *   the map      true as long as `changes` is what it was and the address space has as many executable pages as it had
 *   what stays   the mappings of the program itself, of the dynamic linker, and of what that loaded at the start: it
 *                never unloads them, so they are true until the next exec
 */
struct dwunw_process_slot {
    __u32 lock;
    __u32 need_sent; /* user space has been asked to look at the map */
    __u64 changes;
    __u64 seen_changes;
    __u64 exec_pages; /* without [uprobes] */
    __u64 layout;     /* a number for as long as no address has had two meanings */
    __u64 code_filter;
    __u32 first; /* of dwunw_mappings */
    __u32 count;
    __u32 generation; /* 0: nothing is published */
    __u32 tgid;       /* a slot may have become another process's; 0: it has exited */
    __u64 execs;
    __u64 seen_execs;
    __u64 lasting_layout;
    __u32 lasting_first;
    __u32 lasting_count;
    __u32 lasting_generation; /* 0: nothing is known to stay */
    __u32 incomplete;         /* not every executable mapping is published */
    __u64 reserved[3];
};
DWUNW_ASSERT(sizeof(struct dwunw_process_slot) == 128);

/* The bit of code_filter that says that an address near this one may be code. The lowest 2 MiB have a bit of their own:
   most of a stack's words are small numbers, and were they to share one with a module, each would be looked up. */
#define DWUNW_BPF_FILTER_BIT(address)                                                                                  \
    ((address) >> 21 ? 1 + (((((address) >> 21) * 0x9e3779b97f4a7c15ull) >> 32) * 63 >> 32) : 0)

/* Bits of a frame's word beside its pc. */
#define DWUNW_BPF_FRAME_EXACT (1ull << 63)      /* an instruction's address, not a return address */
#define DWUNW_BPF_FRAME_SIGNAL (1ull << 62)     /* a signal trampoline */
#define DWUNW_BPF_FRAME_TRAMPOLINE (1ull << 61) /* a pending return stood in */
#define DWUNW_BPF_FRAME_PC ((1ull << DWUNW_BPF_ADDRESS_BITS) - 1)

enum dwunw_bpf_event_type {
    DWUNW_BPF_EVENT_STACK = 1,
    DWUNW_BPF_EVENT_WALK = 2,
    DWUNW_BPF_EVENT_PROCESS = 3, /* a process's map is to be read */
    DWUNW_BPF_EVENT_EXIT = 4,
};

struct dwunw_bpf_event {
    __u32 type;
    __u32 tgid;
};

/* A new stack, complete. */
struct dwunw_stack_event {
    struct dwunw_bpf_event head;
    __u64 id;
    __u64 layout;
    __u32 count;
    __u32 reserved;
    __u64 frames[DWUNW_BPF_MAX_FRAMES];
};

struct dwunw_bpf_pending {
    __u64 slot;
    __u64 return_address;
};

/* A stack for user space to walk. */
struct dwunw_walk_event {
    struct dwunw_bpf_event head;
    __u64 id;
    __u64 layout;  /* 0: the map had changed, or was not known */
    __u64 changes; /* of the process, when this was taken */
    __u64 exec_pages;
    __u64 execs;
    __u64 time_ns; /* CLOCK_MONOTONIC */
    __u64 pt_regs[DWUNW_BPF_PT_REGS];
    __u64 stack_addr;
    __u32 stack_len;
    __u32 reason;
    __u32 pending_count;
    __u32 pages; /* bit n: page n of the stack could be read; pages of the process, from that of stack_addr on */
    struct dwunw_bpf_pending pending[DWUNW_BPF_PENDING_MAX];
    /* and behind it the stack, stack_len bytes */
};

/* DWUNW_BPF_EVENT_PROCESS and _EXIT */
struct dwunw_process_event {
    struct dwunw_bpf_event head;
    __u64 changes;
    __u64 exec_pages;
};

/* What the loader chooses before the load, constant afterwards: the verifier drops what is not chosen. */
struct dwunw_settings {
    __u32 use_bpf_loop;
    __u32 use_task_storage;
    __u32 max_frames;
    __u32 slice_bytes;
    __u32 report_unknown; /* processes that are not known are reported, once */
    __u32 path_limit;     /* new stacks for user space behind one path, each second */
    __u64 seed;           /* of ids: nobody shall be able to make two stacks of one id */
    __u32 use_find_vma;   /* dwunw_calls.bpf.h */
    __u32 pid_namespace;  /* whose numbers user space goes by: its inode; 0: the initial one's */
    /* Nothing is walked; calls are paired all the same. Each global function asks first: before Linux 6.8 it is
     * verified also where nothing calls it. */
    __u32 off;
    __u32 reserved;
};

#endif /* DWUNW_BPF_DWUNW_TYPES_H */
