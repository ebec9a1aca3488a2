/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The layouts that the walk in BPF (dwunw.bpf.h) and its loader (libdwunw_bpf.a) share. For C, C++ and BPF. Not an
 * interface of its own: both halves must be of the same version.
 *
 * The pool holds the tables of all modules, in cells of 8 bytes. A table has the arrays of doc/table_format.md,
 * unchanged, except that a rule is one word here:
 *
 *     header   struct dwunw_pool_table, in whole cells
 *     pages    u32 each, 2 a cell
 *     units    u16 each, 4 a cell
 *     rules    a word each; entry n ≥ 2 is word n − 2
 *     overflow { u32 unit, u32 entry } each
 */
#ifndef DWUNW_BPF_DWUNW_TYPES_H
#define DWUNW_BPF_DWUNW_TYPES_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#include "detail/arch.bpf.h"

#ifdef __cplusplus
#define DWUNW_ASSERT(condition) static_assert(condition, #condition)
#elif __STDC_VERSION__ >= 201112L
#define DWUNW_ASSERT(condition) _Static_assert(condition, #condition)
#else
#define DWUNW_ASSERT(condition) struct dwunw_asserted /* C99 has no assertion: C11, C++ and BPF check it */
#endif

/*
 * Every reason why the kernel did not finish a stack, once: X(name, value, text). With a reason up to
 * DWUNW_BPF_LAST_FALLBACK, the stack goes to user space and has an id like any other. With a later reason it has no id,
 * and dwunw_get_stackid returns the negated reason.
 */
#define DWUNW_BPF_REASON_LIST(X)                                                                                       \
    X(DWUNW_BPF_COMPLETE, 0, "complete")                                                                               \
    X(DWUNW_BPF_CHANGED, 1, "the process's map has changed since it was published")                                    \
    X(DWUNW_BPF_NO_MAPPING, 2, "no code is mapped at this address")                                                    \
    X(DWUNW_BPF_ANONYMOUS, 3, "code without a file")                                                                   \
    X(DWUNW_BPF_NO_TABLE, 4, "a module without usable call-frame information")                                         \
    X(DWUNW_BPF_NO_ROOM, 5, "a module whose table found no room")                                                      \
    X(DWUNW_BPF_GAP, 6, "no call-frame information at this address")                                                   \
    X(DWUNW_BPF_COMPLEX, 7, "a rule that needs the full interpreter")                                                  \
    X(DWUNW_BPF_UNREADABLE, 8, "memory unreadable")                                                                    \
    X(DWUNW_BPF_REGISTER, 9, "register value unknown")                                                                 \
    X(DWUNW_BPF_NO_PROGRESS, 10, "no progress")                                                                        \
    X(DWUNW_BPF_TRAMPOLINE, 11, "an unknown pending return")                                                           \
    X(DWUNW_BPF_NO_CALL, 12, "a return address that may follow no call")                                               \
    X(DWUNW_BPF_FRAME_LIMIT, 13, "frame limit of the kernel's walk")                                                   \
    X(DWUNW_BPF_NOT_PUBLISHED, 14, "not every executable mapping is published")                                        \
    X(DWUNW_BPF_FORCED, 15, "a walk in user space was requested")                                                      \
    X(DWUNW_BPF_UNKNOWN_PROCESS, 16, "the process is not known")                                                       \
    X(DWUNW_BPF_NOT_USER, 17, "not 64-bit user registers")                                                             \
    X(DWUNW_BPF_BUSY, 18, "a walk of the same thread was interrupted")                                                 \
    X(DWUNW_BPF_NO_SCRATCH, 19, "no room for a walk's state")                                                          \
    X(DWUNW_BPF_DROPPED, 20, "the ring buffer is full")                                                                \
    X(DWUNW_BPF_LIMITED, 21, "too many new stacks that begin with the same frames")                                    \
    X(DWUNW_BPF_KERNEL_ONLY_END, 22, "the stack needs user space, which DWUNW_KERNEL_ONLY excludes")

enum dwunw_bpf_reason {
#define DWUNW_BPF_REASON_ENUM(name, value, text) name = (value),
    DWUNW_BPF_REASON_LIST(DWUNW_BPF_REASON_ENUM)
#undef DWUNW_BPF_REASON_ENUM
};
#define DWUNW_BPF_LAST_FALLBACK DWUNW_BPF_FORCED
#define DWUNW_BPF_REASONS 23
DWUNW_ASSERT(DWUNW_BPF_KERNEL_ONLY_END + 1 == DWUNW_BPF_REASONS);

/*
 * A stack id is at least 1 << 32, so it is never an id of a BPF_MAP_TYPE_STACK_TRACE, and it is positive as __s64. The
 * stack of an id with this bit was sent to user space and may be incomplete.
 */
#define DWUNW_BPF_ID_LEFT (1ull << 62)

/* dwunw_get_stackid's flags. */
enum {
    /* Never send registers and stack bytes to user space. A stack that the kernel cannot walk has no id. */
    DWUNW_KERNEL_ONLY = 1u << 0,
    /* Do not walk in the kernel; send registers and stack bytes to user space. */
    DWUNW_USER_ONLY = 1u << 1,
    /* The probe is on a return instruction. The stack begins with the caller, as at a return probe. */
    DWUNW_AT_RETURN_INSTRUCTION = 1u << 2,
};

/* All counters lie in one per-CPU array. Counter n below DWUNW_BPF_WALKS counts reason n. */
enum dwunw_bpf_counter {
    DWUNW_BPF_WALKS = 32,
    DWUNW_BPF_FRAMES,
    DWUNW_BPF_CACHE_MISSES,
    DWUNW_BPF_NEW_STACKS,     /* sent with their frames */
    DWUNW_BPF_SENT_WALKS,     /* sent as registers and stack bytes */
    DWUNW_BPF_DEDUPLICATED,   /* not sent, because user space already has the stack */
    DWUNW_BPF_FAILED_INSERTS, /* an id could not be noted as sent: it will be sent again */
    DWUNW_BPF_NEED_PROCESS,   /* user space was asked to read a process's map */
    DWUNW_BPF_NEED_DROPPED,   /* such a request found the ring buffer full */
    DWUNW_BPF_TRAMPOLINE_FRAMES,
    DWUNW_BPF_LINKER_EVENTS,
    DWUNW_BPF_LOST_CALLS,        /* dwunw_calls.bpf.h: no memory for a call */
    DWUNW_BPF_OTHER_STACK_CALLS, /* a call was not followed: another call may be pending on another stack */
    DWUNW_BPF_ABANDONED_CALLS,   /* a pending call ended without a return */
    DWUNW_BPF_COUNTERS = 64,     /* a power of two: it is a mask */
};
DWUNW_ASSERT(DWUNW_BPF_REASONS <= DWUNW_BPF_WALKS);

#define DWUNW_BPF_MAX_FRAMES 512     /* with bpf_loop; a power of two: it is a mask */
#define DWUNW_BPF_MAX_FRAMES_OLD 128 /* in the form for older kernels */
#define DWUNW_BPF_MAPPING_STEPS 13
#define DWUNW_BPF_MAX_MAPPINGS ((1u << DWUNW_BPF_MAPPING_STEPS) - 1) /* of one process */
#define DWUNW_BPF_BLOCK_STEPS 11                                     /* a block has at most 1,024 rows */
#define DWUNW_BPF_OVERFLOW_STEPS 24
#define DWUNW_BPF_WINDOW 2048       /* bytes of stack read at a time */
#define DWUNW_BPF_PENDING_MAX 64    /* the kernel's MAX_URETPROBE_DEPTH */
#define DWUNW_BPF_PID_NAMESPACES 33 /* nested: the kernel's MAX_PID_NS_LEVEL, and the initial one */
#define DWUNW_BPF_PAGE 4096
#define DWUNW_BPF_SLICE_MAX 65536
DWUNW_ASSERT(DWUNW_BPF_SLICE_MAX / DWUNW_BPF_PAGE + 1 <= 32); /* dwunw_walk_event.pages */
DWUNW_ASSERT((DWUNW_BPF_MAX_FRAMES & (DWUNW_BPF_MAX_FRAMES - 1)) == 0);
DWUNW_ASSERT(DWUNW_BPF_WINDOW <= DWUNW_BPF_PAGE);

/* log2 of the number of entries of the pc → rule cache. */
#ifndef DWUNW_BPF_CACHE_BITS
#define DWUNW_BPF_CACHE_BITS 13
#endif
#define DWUNW_BPF_GENERATION_BITS 16
#define DWUNW_BPF_MAX_GENERATION ((1u << DWUNW_BPF_GENERATION_BITS) - 1)
DWUNW_ASSERT(DWUNW_BPF_PC_BITS + 1 + DWUNW_BPF_GENERATION_BITS <= 64); /* an entry's key */

struct dwunw_cached_rule {
    __u64 key; /* pc, exact, generation; combined with a hash of `rule` */
    __u64 rule;
};
DWUNW_ASSERT(sizeof(struct dwunw_cached_rule) == 16);

/*
 * A rule in one word. Fields are signed. Offsets are in bytes, the addend is in words of 8 bytes.
 *
 *     63–42  cfa offset
 *     41–26  fp offset
 *     25–15  ra offset
 *     14–9   addend; for CFA_PLT: the offset in a PLT entry of 16 bytes from which on CFA is 8 more
 *     8–7    ra: enum dwunw_rule_ra
 *     6–4    fp: enum dwunw_rule_fp
 *     3      signal frame
 *     2–0    cfa: enum dwunw_rule_cfa
 *
 * No rule is encoded as 0. What a rule does not say (doc/table_format.md, "Another architecture"): whether the return
 * address is signed.
 */
enum dwunw_rule_cfa {
    DWUNW_RULE_CFA_SP,        /* SP + offset */
    DWUNW_RULE_CFA_FP,        /* FP + offset */
    DWUNW_RULE_CFA_AT_SP,     /* [SP + offset] + 8 × addend */
    DWUNW_RULE_CFA_AT_FP,     /* [FP + offset] + 8 × addend */
    DWUNW_RULE_CFA_PLT,       /* SP + offset + ((pc & 15) ≥ addend ? 8 : 0) */
    DWUNW_RULE_CFA_ROOT,      /* RA is undefined: the outermost frame */
    DWUNW_RULE_CFA_ELSEWHERE, /* the kernel does not execute this rule: the stack goes to user space */
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
    DWUNW_RULE_RA_IN_REGISTER, /* reserved: where the call put it. No table has it yet; the kernel does not execute it
                                */
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
/* The signed field `name` of a rule. */
#define DWUNW_RULE_FIELD(rule, name)                                                                                   \
    ((__s64)((rule) << (64 - DWUNW_RULE_##name##_SHIFT - DWUNW_RULE_##name##_BITS)) >> (64 - DWUNW_RULE_##name##_BITS))

/* The header of a table in the pool. Offsets are in cells, from the header. */
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
    /* any other value is a reason to stop: DWUNW_BPF_ANONYMOUS, _NO_TABLE, _NO_ROOM */
};

/* An executable mapping. The mappings of one process are consecutive, in ascending order of address. */
struct dwunw_mapping {
    __u64 start;
    __u64 end;
    __u64 origin; /* the run address of the table's first page */
    __u32 table;  /* the cell of the table's header */
    __u32 kind;   /* enum dwunw_mapping_kind, or a reason */
};
DWUNW_ASSERT(sizeof(struct dwunw_mapping) == 32);

/*
 * The dynamic linker notifies debuggers before and after each load and unload; each notification is one change. To put
 * another module in a module's place and take it away again takes at least this many notifications. So fewer changes
 * between two readings of a map hide nothing. An exec counts as this many changes. src/bpf/map_validity.h uses the
 * number.
 */
#define DWUNW_BPF_HIDING_CHANGES 4

/*
 * A published process.
 *
 * `lock` is odd while user space writes the slot. A reader that sees an odd or a changed `lock` discards what it read.
 * The kernel counts `changes` (events that may have changed the map) and `execs` (programs executed). User space
 * publishes two sets of mappings:
 *
 *   the map        all executable mappings. Valid while `changes` equals `seen_changes`, and the address space has
 *                  `exec_pages` executable pages.
 *   lasting_…      the mappings of the program itself, of the dynamic linker, and of the modules that the linker loaded
 *                  at the start. The linker never unloads these, so they are valid until the next exec: while `execs`
 *                  equals `seen_execs`.
 */
struct dwunw_process_slot {
    __u32 lock;
    __u32 need_sent; /* user space has been asked to read the map */
    __u64 changes;
    __u64 seen_changes;
    __u64 exec_pages;  /* without the page [uprobes] */
    __u64 layout;      /* changes when an address gets another meaning; part of every stack id */
    __u64 code_filter; /* DWUNW_BPF_FILTER_BIT */
    __u32 first;       /* index in dwunw_mappings */
    __u32 count;
    __u32 generation; /* 0: nothing is published */
    __u32 tgid;       /* a slot may be given to another process; 0: the process has exited */
    __u64 execs;
    __u64 seen_execs;
    __u64 lasting_layout;
    __u32 lasting_first;
    __u32 lasting_count;
    __u32 lasting_generation; /* 0: no lasting mappings are published */
    __u32 incomplete;         /* not every executable mapping is published */
    __u64 reserved[3];
};
DWUNW_ASSERT(sizeof(struct dwunw_process_slot) == 128);

/* The bit of code_filter that is set if an address in the same 2 MiB may be code. The lowest 2 MiB have their own bit:
   most words of a stack are small numbers, and if they shared a bit with a module, each would have to be looked up. */
#define DWUNW_BPF_FILTER_BIT(address)                                                                                  \
    ((address) >> 21 ? 1 + (((((address) >> 21) * 0x9e3779b97f4a7c15ull) >> 32) * 63 >> 32) : 0)

/* A frame is one word: its pc and these bits. */
#define DWUNW_BPF_FRAME_EXACT (1ull << 63)      /* an instruction's address, not a return address */
#define DWUNW_BPF_FRAME_SIGNAL (1ull << 62)     /* a signal trampoline */
#define DWUNW_BPF_FRAME_TRAMPOLINE (1ull << 61) /* the pc is a pending return's */
#define DWUNW_BPF_FRAME_PC ((1ull << DWUNW_BPF_ADDRESS_BITS) - 1)

enum dwunw_bpf_event_type {
    DWUNW_BPF_EVENT_STACK = 1,
    DWUNW_BPF_EVENT_WALK = 2,
    DWUNW_BPF_EVENT_PROCESS = 3, /* user space should read a process's map */
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
    __u64 changes; /* this field and the next two: the process's values when the event was made */
    __u64 exec_pages;
    __u64 execs;
    __u64 time_ns; /* CLOCK_MONOTONIC */
    __u64 pt_regs[DWUNW_BPF_PT_REGS];
    __u64 stack_addr;
    __u32 stack_len;
    __u32 reason;
    __u32 pending_count;
    __u32 pages; /* bit n: page n of the stack could be read; page 0 is the one that holds stack_addr */
    struct dwunw_bpf_pending pending[DWUNW_BPF_PENDING_MAX];
    /* the stack follows: stack_len bytes */
};

/* DWUNW_BPF_EVENT_PROCESS and _EXIT */
struct dwunw_process_event {
    struct dwunw_bpf_event head;
    __u64 changes;
    __u64 exec_pages;
};

/* The loader sets these before the load; they are constant afterwards, so the verifier drops unused branches. */
struct dwunw_settings {
    __u32 use_bpf_loop;
    __u32 use_task_storage;
    __u32 max_frames;
    __u32 slice_bytes;
    __u32 report_unknown; /* report each unknown process once */
    __u32 path_limit;     /* new stacks for user space that begin with the same frames, a second */
    __u64 seed;           /* of the id hash: prevents a program from forging two stacks with one id */
    __u32 use_find_vma;   /* dwunw_calls.bpf.h */
    __u32 pid_namespace;  /* inode of the pid namespace whose numbers user space uses; 0: the initial one */
    /* Walk nothing, but pair calls. Each global function checks this first, because Linux before 6.8 verifies a global
     * function even if nothing calls it. */
    __u32 off;
    __u32 reserved;
};

#endif /* DWUNW_BPF_DWUNW_TYPES_H */
