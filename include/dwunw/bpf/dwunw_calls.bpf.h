/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pairs a function's entry with its return: the probe at the entry stores values, and the probe at the return gets
 * them. If calls are nested (an allocator that calls another one, or itself), only the outermost call is seen. So
 * nothing is counted twice, and an inner call never overwrites the values of the outer one. Include this file after
 * dwunw.bpf.h.
 *
 *     entry:   struct dwunw_call *call = dwunw_call_begin(ctx, 0);
 *              if (!call)
 *                      return 1;                 a uprobe session then places no return probe
 *              call->values[0] = size;
 *     return:  struct dwunw_call call;
 *              if (!dwunw_call_end(ctx, &call, 0))
 *                      return 0;
 *     longjmp: dwunw_call_jump(ctx);             optional, see below
 *
 * A pending call is identified by its slot: the stack word that holds its return address. SP is the slot's address at
 * the entry and at a return instruction, and the slot's address + 8 after the return. A return whose entry was not seen
 * is ignored.
 *
 * What a return probe does to the program. The kernel keeps a list of pending returns. It writes the address of a
 * trampoline into each one's slot:
 *
 *     the thread's stack          its alternate signal stack, above
 *     slot A: trampoline          slot B: …
 *
 * At the entry of call B the kernel drops every pending return whose slot is below SP, because it assumes that longjmp
 * has left that call. A handler on an alternate stack that lies above looks the same to the kernel: it drops A's
 * return. When A returns, the trampoline finds nothing, and the program dies of SIGILL. If a session's program returns
 * 1 at B's entry, the kernel does nothing for B. So a call gets a return probe only if every return that the kernel
 * would drop is proved to be dead. A return is dead if
 *   - its slot no longer holds the trampoline; or
 *   - a jump has left its frame; or
 *   - SP is above the slot on the same stack. Two addresses are on the same stack if both are on the alternate signal
 *     stack, or if neither is and both are in the mapping of the thread's own stack.
 * The order of two addresses on different stacks proves nothing, because coroutines and fibers may lie anywhere. So a
 * call that comes while another call is pending on another stack is not followed, and it is counted
 * (DWUNW_BPF_OTHER_STACK_CALLS).
 *
 * The same proof finds a call that a longjmp has abandoned. That call ends, is counted (DWUNW_BPF_ABANDONED_CALLS), and
 * hides no later call. A program that jumps out of a call and continues on a coroutine gives no such proof; then a
 * probe at longjmp and siglongjmp gives it, by reading the target of the jump.
 *
 * Only a session can refuse a return probe. Other forms of return probe have the kernel's fault and no way around it.
 * With those, probe the function's return instructions instead (dwunw/bpf_attach.h), and pass
 * DWUNW_CALL_BY_INSTRUCTION. Return instructions change nothing in the program. Use them also for functions that switch
 * stacks or threads, and for functions that exceptions pass through.
 *
 * Known limits:
 *   - A session with a pid runs its program in that process only, but the kernel (seen on Linux 6.18) also places its
 *     return probes in every other process that has a probe at the same address of the file. So two tools on one
 *     library, in two processes, place return probes in each other's process, and neither can refuse them. Return
 *     instructions have no such fault.
 *   - An alternate stack with SS_AUTODISARM that lies inside the thread's own stack is not recognised.
 *
 * Proved by tests/unit/bpf_calls_test and, in the kernel, tests/integration/return_probes_test.py.
 *
 * Cost: one lookup at the entry and one at the return, in task storage or in a hash by thread
 * (dwunw_bpf_options.threads).
 */
#ifndef DWUNW_BPF_DWUNW_CALLS_BPF_H
#define DWUNW_BPF_DWUNW_CALLS_BPF_H

#ifndef DWUNW_BPF_DWUNW_BPF_H
#error "include <dwunw/bpf/dwunw.bpf.h> before <dwunw/bpf/dwunw_calls.bpf.h>"
#endif

/* Flags of dwunw_call_begin and dwunw_call_end; the same for both. */
enum {
    /* The probes of the return are on the function's return instructions; there is no return probe. */
    DWUNW_CALL_BY_INSTRUCTION = 1u << 0,
};

/* A thread's outermost call. */
struct dwunw_call {
    __u64 sp; /* SP at its entry, which is its slot; 0: no call is pending */
    __u64 values[2];
    __u64 left;  /* the slot of the last call that was proved to be abandoned, until another call uses the slot */
    __u64 stack; /* the start of the thread's own stack, once it was seen; 0: not yet */
    __u32 inner; /* the number of calls that came while this one was pending, on the thread's own stack */
    __u32 looks; /* the number of calls that have looked for `stack` */
};

/* After this many inner calls, a call counts as abandoned, although its slot still looks pending. */
#define DWUNW_CALL_MAX_INNER 64
/* So many calls of a thread look for its own stack. More would cost too much on a stack that is never found: a fiber's.
 */
#define DWUNW_CALL_LOOKS 1024
/* On a stack that is not the thread's own, an inner call's slot lies at most this many bytes below the outer call's. */
#define DWUNW_CALL_REACH 65536

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct dwunw_call);
} dwunw_calls SEC(".maps") DWUNW_SHARED;

/* tid → pending call, without task storage */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_call);
} dwunw_thread_calls SEC(".maps") DWUNW_SHARED;

/* Whether two addresses are on the same stack. */
enum dwunw_stacks {
    DWUNW_STACKS_UNKNOWN,  /* both are in one mapping, which is not the thread's own stack; or no mapping was found */
    DWUNW_STACKS_SAME,     /* both are on the thread's own stack, or both on its alternate one */
    DWUNW_STACKS_DIFFERENT /* they are in two mappings, or one of them is on the alternate stack */
};

#ifndef DWUNW_BPF_USER
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct vm_area_struct___dwunw {
    unsigned long vm_start;
    unsigned long vm_end;
};
struct task_struct___dwunw_calls {
    int pid;
    int tgid;
    unsigned long sas_ss_sp;
    unsigned long sas_ss_size;
};
#pragma clang attribute pop

static __always_inline struct dwunw_call *dwunw_call_of_thread(__u32 create) {
    const struct dwunw_call none = {};
    __u32 tid = bpf_get_current_pid_tgid();
    struct dwunw_call *call;

    if (dwunw_settings.use_task_storage)
        return bpf_task_storage_get(&dwunw_calls, bpf_get_current_task_btf(), 0,
                                    create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
    call = bpf_map_lookup_elem(&dwunw_thread_calls, &tid);
    if (call || !create)
        return call;
    bpf_map_update_elem(&dwunw_thread_calls, &tid, &none, BPF_NOEXIST);
    return bpf_map_lookup_elem(&dwunw_thread_calls, &tid);
}

static __always_inline void dwunw_forget_call(struct dwunw_call *call) {
    __u32 tid = bpf_get_current_pid_tgid();

    call->sp = 0;
    if (!dwunw_settings.use_task_storage)
        bpf_map_delete_elem(&dwunw_thread_calls, &tid);
}

/* Whether any return of this thread is pending, of any tool. Every call runs this, so it avoids helpers if it can. */
static __always_inline int dwunw_is_any_pending(void) {
    struct task_struct___dwunw *task;

    if (!dwunw_settings.use_task_storage)
        return dwunw_first_pending() != 0;
    task = (struct task_struct___dwunw *)bpf_get_current_task_btf();
    return task->utask && task->utask->return_instances;
}

/* As in the kernel: the address behind the last byte counts as on the alternate stack, the first byte does not. */
static __always_inline int dwunw_is_on_alt_stack(__u64 address) {
    struct task_struct___dwunw_calls *task = (struct task_struct___dwunw_calls *)bpf_get_current_task();
    const __u64 start = BPF_CORE_READ(task, sas_ss_sp), size = BPF_CORE_READ(task, sas_ss_size);

    return address > start && address - start <= size;
}

struct dwunw_stack_query {
    __u64 other;
    __u64 arguments; /* the program's arguments, which the main thread's stack holds; 0: not the main thread */
    __u64 block;     /* the thread control block; another thread's stack ends below it */
    __u64 address;
    __u64 start; /* of the mapping that has the address */
    __u32 stacks;
};

#ifndef DWUNW_BPF_OLD
static long dwunw_on_mapping(void *task, struct vm_area_struct___dwunw *mapping, struct dwunw_stack_query *query) {
    const __u64 start = mapping->vm_start, size = mapping->vm_end - start;

    (void)task;
    query->start = start;
    if (query->other - start >= size)
        query->stacks = DWUNW_STACKS_DIFFERENT;
    else if (query->arguments
                 ? query->arguments - start < size
                 : query->block - start < size && query->address < query->block && query->other < query->block)
        query->stacks = DWUNW_STACKS_SAME;
    return 0;
}
#endif

/*
 * Compares by mappings only. The kernel does not tell of them while another thread maps or unmaps. So what was learnt
 * of the thread's own stack is kept: where it starts stays true as long as the thread lives, and its end is known.
 */
static __always_inline __u32 dwunw_compare_mappings(__u64 address, __u64 other) {
#ifndef DWUNW_BPF_OLD
    struct task_struct___dwunw_calls *task = (struct task_struct___dwunw_calls *)bpf_get_current_task();
    const int is_main = BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid);
    struct dwunw_stack_query query = {
        .other = other,
        .arguments = is_main ? dwunw_main_stack_end() : 0,
        .block = dwunw_thread_block(),
        .address = address,
        .stacks = DWUNW_STACKS_UNKNOWN,
    };
    const __u64 end = query.arguments ? query.arguments : query.block;
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (call && call->stack && address >= call->stack && address < end && other >= call->stack && other < end)
        return DWUNW_STACKS_SAME;
    if (dwunw_settings.use_find_vma &&
        !bpf_find_vma(bpf_get_current_task_btf(), address, dwunw_on_mapping, &query, 0)) {
        if (call && query.stacks == DWUNW_STACKS_SAME)
            call->stack = query.start;
        return query.stacks;
    }
#endif
    return DWUNW_STACKS_UNKNOWN;
}
#endif /* DWUNW_BPF_USER */

static __always_inline __u32 dwunw_compare_stacks(__u64 address, __u64 other) {
    const int on_alt = dwunw_is_on_alt_stack(address);

    if (on_alt != dwunw_is_on_alt_stack(other))
        return DWUNW_STACKS_DIFFERENT;
    return on_alt ? DWUNW_STACKS_SAME : dwunw_compare_mappings(address, other);
}

/* Whether a pending return's slot still holds the trampoline's address. */
static __always_inline int dwunw_is_slot_hijacked(__u64 slot) {
    const __u64 trampoline = dwunw_return_trampoline();
    __u64 word;

    return trampoline && !bpf_probe_read_user(&word, sizeof(word), (void *)slot) && word == trampoline;
}

static __always_inline void dwunw_abandon_call(struct dwunw_call *call) {
    dwunw_count(DWUNW_BPF_ABANDONED_CALLS, 1);
    call->left = call->sp;
    call->sp = 0;
}

/*
 * Whether a call with its slot at `sp` must not be followed: it is an inner call of the pending one, or the pending
 * call may still run on another stack. 0: the pending call has ended.
 */
static __noinline int dwunw_is_within_call(struct dwunw_call *call, __u64 sp, __u64 flags) {
    const __u64 slot = call->sp;
    __u32 stacks;

    if (!(flags & DWUNW_CALL_BY_INSTRUCTION) && !dwunw_is_slot_hijacked(slot)) {
        dwunw_abandon_call(call);
        return 0;
    }
    /* The function ended in a jump to another function. The two are one call; the later one counts. */
    if (sp == slot)
        return 0;
    stacks = dwunw_compare_stacks(sp, slot);
    if (stacks == DWUNW_STACKS_SAME && sp < slot && call->inner < DWUNW_CALL_MAX_INNER) {
        call->inner++;
        return 1;
    }
    if (stacks == DWUNW_STACKS_SAME) {
        dwunw_abandon_call(call);
        return 0;
    }
    if (stacks == DWUNW_STACKS_UNKNOWN && sp < slot && slot - sp < DWUNW_CALL_REACH)
        return 1;
    /* No return address was replaced, so nothing can break: follow the newer call. */
    if (flags & DWUNW_CALL_BY_INSTRUCTION && !dwunw_is_on_alt_stack(sp)) {
        dwunw_abandon_call(call);
        return 0;
    }
    dwunw_count(DWUNW_BPF_OTHER_STACK_CALLS, 1);
    return 1;
}

/* Whether a return probe on a call with its slot at `sp` would make the kernel drop a return that may not be dead. */
static __noinline int dwunw_drops_a_return(const struct dwunw_call *call, __u64 sp) {
    struct dwunw_bpf_pending pending;
    __u64 instance = dwunw_first_pending();
    __u32 i;

    for (i = 0; i < DWUNW_BPF_PENDING_MAX && instance; i++) {
        instance = dwunw_read_pending(instance, &pending);
        if (pending.slot > sp)
            return 0; /* the kernel stops here */
        if (pending.slot == call->left || !dwunw_is_slot_hijacked(pending.slot))
            continue;
        if (pending.slot == sp)
            return 0; /* a function that ended in a jump: the kernel keeps both returns */
        if (dwunw_compare_stacks(sp, pending.slot) != DWUNW_STACKS_SAME) {
            dwunw_count(DWUNW_BPF_OTHER_STACK_CALLS, 1);
            return 1;
        }
    }
    return 0;
}

/* 1: the call must not be followed. Runs only while something is pending. Global: the verifier checks it once. */
DWUNW_SHARED __noinline int dwunw_refuses_call(__u64 sp, __u64 flags) {
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (!call)
        return 1;
    if (call->sp && dwunw_is_within_call(call, sp, flags))
        return 1;
    return flags & DWUNW_CALL_BY_INSTRUCTION ? 0 : dwunw_drops_a_return(call, sp);
}

/* Learns where the thread's own stack starts, before anything depends on it: see dwunw_compare_mappings. */
DWUNW_SHARED __noinline int dwunw_learn_stack(__u64 sp) { return dwunw_compare_mappings(sp, sp); }

/* Call it at an entry. 0: do not follow this call. It is an inner call, or it is on another stack than a pending call,
   or there is no memory. */
static __always_inline struct dwunw_call *dwunw_call_begin(void *ctx, __u64 flags) {
    const __u64 sp = ((const __u64 *)ctx)[DWUNW_PT_SP];
    struct dwunw_call *call = dwunw_call_of_thread(1);

    if (!call) {
        dwunw_count(DWUNW_BPF_LOST_CALLS, 1);
        return 0;
    }
    if ((call->sp || (!(flags & DWUNW_CALL_BY_INSTRUCTION) && dwunw_is_any_pending())) && dwunw_refuses_call(sp, flags))
        return 0;
    if (dwunw_settings.use_task_storage && !call->stack && call->looks < DWUNW_CALL_LOOKS) {
        call->looks++;
        dwunw_learn_stack(sp);
    }
    call->sp = sp;
    call->inner = 0;
    if (call->left == sp)
        call->left = 0;
    return call;
}

/* Call it at a return. 1: *out is the call, which has ended. 0: no call that was seen ends here. */
static __always_inline int dwunw_call_end(void *ctx, struct dwunw_call *out, __u64 flags) {
    const __u64 sp = ((const __u64 *)ctx)[DWUNW_PT_SP],
                popped = flags & DWUNW_CALL_BY_INSTRUCTION ? 0 : DWUNW_RETURN_POPS;
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (!call || !call->sp || call->sp + popped != sp)
        return 0;
    *out = *call;
    dwunw_forget_call(call);
    return 1;
}

/* Whether a jump to SP `target` ends the call with this slot: the jump goes up on the call's own stack, or from the
   alternate stack to the thread's. */
static __noinline int dwunw_leaves_frame(__u64 slot, __u64 target) {
    const __u32 stacks = dwunw_compare_stacks(target, slot);

    if (stacks == DWUNW_STACKS_SAME)
        return target > slot;
    return dwunw_is_on_alt_stack(slot) && dwunw_compare_stacks(target, target) == DWUNW_STACKS_SAME;
}

DWUNW_SHARED __noinline int dwunw_note_jump(__u64 buffer) {
    const __u64 block = dwunw_thread_block();
    struct dwunw_call *call = dwunw_call_of_thread(0);
    __u64 plain = 0, guard = 0, slot;

    if (!call || !call->sp || bpf_probe_read_user(&plain, sizeof(plain), (void *)(buffer + DWUNW_JMP_BUF_SP)))
        return 0;
    if (bpf_probe_read_user(&guard, sizeof(guard), (void *)(block + DWUNW_POINTER_GUARD)))
        guard = 0;
    slot = call->sp;
    if (dwunw_leaves_frame(slot, plain) || dwunw_leaves_frame(slot, DWUNW_JMP_BUF_PLAIN(plain, guard)))
        dwunw_abandon_call(call);
    return 0;
}

/*
 * Call it at an entry of longjmp, siglongjmp, _longjmp or __longjmp_chk. Ends the pending call if the jump leaves its
 * frame.
 */
static __always_inline __attribute__((unused)) void dwunw_call_jump(void *ctx) {
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (call && call->sp)
        dwunw_note_jump(((const __u64 *)ctx)[DWUNW_PT_ARG1]);
}

#endif
