/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pairs a function's entry with its return: what a probe learns at the entry is kept for the probe at the return. Of
 * calls within a call (an allocator that calls another one, or itself) only the outermost is seen, so that nothing is
 * counted twice, and an inner call never overwrites what the outer one has left. Include it behind dwunw.bpf.h.
 *
 *     entry:   struct dwunw_call *call = dwunw_call_begin(ctx, 0);
 *              if (!call)
 *                      return 1;                 a uprobe session then leaves the return alone
 *              call->values[0] = size;
 *     return:  struct dwunw_call call;
 *              if (!dwunw_call_end(ctx, &call, 0))
 *                      return 0;
 *     longjmp: dwunw_call_jump(ctx);             optional, see below
 *
 * A pending call is known by its slot: the stack word that holds its return address. SP is the slot's address at the
 * entry and at a return instruction, and 8 more behind the return. A return whose entry was not seen is not ours.
 *
 * What a return probe does to the program. The kernel keeps a list of pending returns, and replaces each one's slot by
 * the address of a trampoline:
 *
 *     the thread's stack          its alternate signal stack, above
 *     slot A: trampoline          slot B: …
 *
 * At the entry of call B it drops every pending return whose slot is below SP, as one that longjmp left. A handler on
 * an alternate stack that lies above looks the same: A's return is dropped, and when A returns, the trampoline finds
 * nothing and the program dies of SIGILL. A session's program that returns 1 keeps the kernel from touching B. So a
 * call gets a return probe only if every return that the kernel would drop is dead, which must be proved:
 *   - its slot no longer holds the trampoline; or
 *   - a jump has left its frame; or
 *   - SP is above the slot on the same stack. Two addresses are on the same stack if both are on the alternate signal
 *     stack, or neither is and both are in the mapping of the thread's own stack.
 * The order of two addresses on different stacks proves nothing: coroutines and fibers lie anywhere. A call that comes
 * while another one is pending on another stack is therefore left alone, and counted (DWUNW_BPF_OTHER_STACK_CALLS).
 *
 * The same proof finds a call that was abandoned by a longjmp: it ends, counted (DWUNW_BPF_ABANDONED_CALLS), and hides
 * nothing that comes later. A program that jumps out of a call and goes on with a coroutine gives no such proof; a
 * probe at longjmp and siglongjmp, which reads where the jump goes, does.
 *
 * Only a session can leave a return alone. Other forms of return probe have the kernel's fault and no way around it:
 * there, probe the function's return instructions instead (dwunw/bpf_attach.h), and pass DWUNW_CALL_BY_INSTRUCTION.
 * That form changes nothing in the program. It also is the one for functions that switch stacks or threads, or that
 * exceptions pass through.
 *
 * Where this ends:
 *   - A session with a pid has its program run in that process alone, but the kernel (seen on Linux 6.18) gives its
 *     return probes to every process that is probed at the same place. So two tools on one library, each with another
 *     process, give each other's processes return probes that neither can refuse. Return instructions do not.
 *   - An alternate stack with SS_AUTODISARM that lies inside the thread's own stack is not seen.
 *
 * Proved by tests/unit/bpf_calls_test and, in the kernel, tests/integration/return_probes_test.py.
 *
 * One lookup for each: task storage where there is one, else a hash by thread (dwunw_bpf_options.threads).
 */
#ifndef DWUNW_BPF_DWUNW_CALLS_BPF_H
#define DWUNW_BPF_DWUNW_CALLS_BPF_H

#ifndef DWUNW_BPF_DWUNW_BPF_H
#error "include <dwunw/bpf/dwunw.bpf.h> before <dwunw/bpf/dwunw_calls.bpf.h>"
#endif

/* Flags of dwunw_call_begin and dwunw_call_end; the same for both. */
enum {
    /* The return is probed at the function's return instructions, not by a return probe. */
    DWUNW_CALL_BY_INSTRUCTION = 1u << 0,
};

/* A thread's outermost call. */
struct dwunw_call {
    __u64 sp; /* at its entry, which is its slot; 0: none is pending */
    __u64 values[2];
    __u64 left;  /* the slot of the last call that was proved to be abandoned, until another call has it */
    __u32 inner; /* calls that came while it was pending, on the thread's own stack */
    __u32 reserved;
};

/* So many calls within one are none: it was left, and its slot keeps what it held. */
#define DWUNW_CALL_MAX_INNER 64
/* Calls within a call on a stack that is not the thread's own have their slots at most so far below. */
#define DWUNW_CALL_REACH 65536

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct dwunw_call);
} dwunw_calls SEC(".maps");

/* tid → call, while it is pending */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_call);
} dwunw_thread_calls SEC(".maps");

/* How two stack addresses lie to each other. */
enum dwunw_stacks {
    DWUNW_STACKS_UNKNOWN,  /* in one mapping, or none was found */
    DWUNW_STACKS_SAME,     /* on the thread's own stack, or on its alternate one */
    DWUNW_STACKS_DIFFERENT /* in two mappings, or one of them on the alternate stack */
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

/* Whether any return of this thread is pending, anybody's. On every call's path, so without helpers where that can be.
 */
static __always_inline int dwunw_is_any_pending(void) {
    struct task_struct___dwunw *task;

    if (!dwunw_settings.use_task_storage)
        return dwunw_first_pending() != 0;
    task = (struct task_struct___dwunw *)bpf_get_current_task_btf();
    return task->utask && task->utask->return_instances;
}

/* The kernel takes the last byte for one of the alternate stack, and the first for none. */
static __always_inline int dwunw_is_on_alt_stack(__u64 address) {
    struct task_struct___dwunw_calls *task = (struct task_struct___dwunw_calls *)bpf_get_current_task();
    const __u64 start = BPF_CORE_READ(task, sas_ss_sp), size = BPF_CORE_READ(task, sas_ss_size);

    return address > start && address - start <= size;
}

struct dwunw_stack_query {
    __u64 other;
    __u64 arguments; /* the main thread's stack holds them; 0: another thread */
    __u64 block;     /* another thread's stack ends below its control block */
    __u64 address;
    __u32 stacks;
};

#ifndef DWUNW_BPF_OLD
static long dwunw_on_mapping(void *task, struct vm_area_struct___dwunw *mapping, struct dwunw_stack_query *query) {
    const __u64 start = mapping->vm_start, size = mapping->vm_end - start;

    (void)task;
    if (query->other - start >= size)
        query->stacks = DWUNW_STACKS_DIFFERENT;
    else if (query->arguments
                 ? query->arguments - start < size
                 : query->block - start < size && query->address < query->block && query->other < query->block)
        query->stacks = DWUNW_STACKS_SAME;
    return 0;
}
#endif

/* As far as mappings tell. */
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

    if (dwunw_settings.use_find_vma && !bpf_find_vma(bpf_get_current_task_btf(), address, dwunw_on_mapping, &query, 0))
        return query.stacks;
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

/* Whether a pending return's slot still holds what the kernel put there. */
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
 * Whether a call with its slot at `sp` comes within the pending one, or while that may go on on another stack; 0: the
 * pending call has ended.
 */
static __noinline int dwunw_is_within_call(struct dwunw_call *call, __u64 sp, __u64 flags) {
    const __u64 slot = call->sp;
    __u32 stacks;

    if (!(flags & DWUNW_CALL_BY_INSTRUCTION) && !dwunw_is_slot_hijacked(slot)) {
        dwunw_abandon_call(call);
        return 0;
    }
    /* A jump to another function at a call's end: the two are one call, seen as the later one. */
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
    /* No return was changed, so nothing can be broken: the newer call is the one that is seen. */
    if (flags & DWUNW_CALL_BY_INSTRUCTION && !dwunw_is_on_alt_stack(sp)) {
        dwunw_abandon_call(call);
        return 0;
    }
    dwunw_count(DWUNW_BPF_OTHER_STACK_CALLS, 1);
    return 1;
}

/* Whether a return probe on a call with its slot at `sp` makes the kernel drop a return that may still come. */
static __noinline int dwunw_drops_a_return(const struct dwunw_call *call, __u64 sp) {
    struct dwunw_bpf_pending pending;
    __u64 instance = dwunw_first_pending();
    __u32 i;

    for (i = 0; i < DWUNW_BPF_PENDING_MAX && instance; i++) {
        instance = dwunw_read_pending(instance, &pending);
        if (pending.slot > sp)
            return 0; /* the kernel looks no further */
        if (pending.slot == call->left || !dwunw_is_slot_hijacked(pending.slot))
            continue;
        if (pending.slot == sp)
            return 0; /* a jump at a call's end: the kernel keeps both */
        if (dwunw_compare_stacks(sp, pending.slot) != DWUNW_STACKS_SAME) {
            dwunw_count(DWUNW_BPF_OTHER_STACK_CALLS, 1);
            return 1;
        }
    }
    return 0;
}

/* Verified once, whatever calls it, and only reached while something is pending. 1: the call is not to be followed. */
__noinline int dwunw_refuses_call(__u64 sp, __u64 flags) {
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (!call)
        return 1;
    if (call->sp && dwunw_is_within_call(call, sp, flags))
        return 1;
    return flags & DWUNW_CALL_BY_INSTRUCTION ? 0 : dwunw_drops_a_return(call, sp);
}

/* At an entry. 0: within another call, on another stack than a pending one, or no memory. */
static __always_inline struct dwunw_call *dwunw_call_begin(void *ctx, __u64 flags) {
    const __u64 sp = ((const __u64 *)ctx)[19];
    struct dwunw_call *call = dwunw_call_of_thread(1);

    if (!call) {
        dwunw_count(DWUNW_BPF_LOST_CALLS, 1);
        return 0;
    }
    if ((call->sp || (!(flags & DWUNW_CALL_BY_INSTRUCTION) && dwunw_is_any_pending())) && dwunw_refuses_call(sp, flags))
        return 0;
    call->sp = sp;
    call->inner = 0;
    if (call->left == sp)
        call->left = 0;
    return call;
}

/* At a return. 1, and the call, which is over: in *out. */
static __always_inline int dwunw_call_end(void *ctx, struct dwunw_call *out, __u64 flags) {
    const __u64 sp = ((const __u64 *)ctx)[19], popped = flags & DWUNW_CALL_BY_INSTRUCTION ? 0 : 8;
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (!call || !call->sp || call->sp + popped != sp)
        return 0;
    *out = *call;
    dwunw_forget_call(call);
    return 1;
}

/* glibc keeps SP and pc in a jmp_buf rotated and mixed with a word of the thread control block, musl as they are. */
#define DWUNW_JMP_BUF_SP 48
#define DWUNW_POINTER_GUARD 0x30

/* Whether a jump to SP `target` leaves the frame of a call with this slot for good: it goes up on the call's own stack,
   or from the alternate stack to the thread's. */
static __noinline int dwunw_leaves_frame(__u64 slot, __u64 target) {
    const __u32 stacks = dwunw_compare_stacks(target, slot);

    if (stacks == DWUNW_STACKS_SAME)
        return target > slot;
    return dwunw_is_on_alt_stack(slot) && dwunw_compare_stacks(target, target) == DWUNW_STACKS_SAME;
}

__noinline int dwunw_note_jump(__u64 buffer) {
    const __u64 block = dwunw_thread_block();
    struct dwunw_call *call = dwunw_call_of_thread(0);
    __u64 plain = 0, guard = 0, slot;

    if (!call || !call->sp || bpf_probe_read_user(&plain, sizeof(plain), (void *)(buffer + DWUNW_JMP_BUF_SP)))
        return 0;
    if (bpf_probe_read_user(&guard, sizeof(guard), (void *)(block + DWUNW_POINTER_GUARD)))
        guard = 0;
    slot = call->sp;
    if (dwunw_leaves_frame(slot, plain) || dwunw_leaves_frame(slot, (plain >> 17 | plain << 47) ^ guard))
        dwunw_abandon_call(call);
    return 0;
}

/*
 * At an entry of longjmp, siglongjmp, _longjmp or __longjmp_chk: the pending call has ended if the jump leaves its
 * frame.
 */
static __always_inline __attribute__((unused)) void dwunw_call_jump(void *ctx) {
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (call && call->sp)
        dwunw_note_jump(((const __u64 *)ctx)[14]); /* rdi */
}

#endif
