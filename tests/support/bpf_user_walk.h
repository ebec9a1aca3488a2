/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * dwunw/bpf/dwunw.bpf.h as user code: the walker that runs in the kernel, over memory that a test hands it.
 */
#ifndef BPF_USER_WALK_H
#define BPF_USER_WALK_H

#include <dwunw/bpf/dwunw_types.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bpf_user_world {
    struct dwunw_settings settings;
    const uint64_t *pool;
    size_t pool_cells;
    const struct dwunw_mapping *mappings;
    size_t mapping_count;
    struct dwunw_process_slot *process;      /* NULL: unknown */
    struct dwunw_cached_rule *rules;         /* 1 << DWUNW_BPF_CACHE_BITS of them */
    const struct dwunw_bpf_pending *pending; /* innermost first */
    size_t pending_count;
    uint64_t trampoline;
    uint64_t exec_pages;
    uint64_t stack_end;
    uint64_t thread_block;
    uint64_t alt_stack, alt_stack_size; /* the thread's alternate signal stack */
    uint64_t own_stack, own_stack_size; /* the mapping of the thread's own stack; others are of 1 MiB, aligned */
    uint32_t namespace_tgid;            /* where settings.pid_namespace is not 0 */
    /* True when all of it could be read. */
    int (*read)(void *arg, uint64_t address, void *buffer, size_t length);
    void *arg;

    /* What comes of it. */
    struct dwunw_stack_event stack; /* the last one sent */
    size_t stacks_sent;
    size_t walks_sent;
    size_t processes_sent;
    uint32_t reason; /* of the last walk */
    /* Of the last record for user space. */
    uint32_t walk_reason;
    uint64_t walk_layout;
    uint64_t counters[DWUNW_BPF_COUNTERS];
    uint64_t sent[64];
    size_t sent_count;
    int ring_is_full;
    int no_calls; /* no memory for the state of a call */
};

/* As dwunw_get_stackid. Threads may walk at once, each in its own world; worlds may share rules. */
int64_t bpf_user_get_stackid(struct bpf_user_world *world, const uint64_t pt_regs[DWUNW_BPF_PT_REGS], uint64_t flags);

/* dwunw/bpf/dwunw_calls.bpf.h, of this thread, with SP at the entry and at the return; what of the first comes out of
   the second, 0: nothing. A jump: with the address of its jmp_buf. */
int bpf_user_call_begin(struct bpf_user_world *world, uint64_t sp, uint64_t value, uint64_t flags);
uint64_t bpf_user_call_end(struct bpf_user_world *world, uint64_t sp, uint64_t flags);
void bpf_user_call_jump(struct bpf_user_world *world, uint64_t buffer);
void bpf_user_forget_calls(void);

#ifdef __cplusplus
}
#endif

#endif
