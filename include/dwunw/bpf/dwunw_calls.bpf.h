/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Pairs a function's entry with its return: what a probe learns at the entry is kept for the probe at the return. Of
 * calls within a call (an allocator that calls another one, or itself) only the outermost is seen, so that nothing is
 * counted twice, and an inner call never overwrites what the outer one has left. Include it behind dwunw.bpf.h.
 *
 *     entry:   struct dwunw_call *call = dwunw_call_begin(ctx);
 *              if (!call)
 *                      return 1;                 a uprobe session then leaves the return out
 *              call->values[0] = size;
 *     return:  struct dwunw_call call;
 *              if (!dwunw_call_end(ctx, &call))
 *                      return 0;
 *
 * A call is known by where its return address lies: SP at the entry, SP − 8 at the return. So a return whose entry was
 * not seen is none of ours, and a call that was left without a return (longjmp, a return that was not caught) is
 * forgotten when its frame is gone: at the next call of its thread from there or further out. A call that ends in a
 * jump to another one is seen as that one.
 *
 * Proved by tests/unit/bpf_calls_test and, in the kernel, tests/integration/bpf_walk_test.py (calls).
 *
 * One lookup for each: task storage where there is one, else a hash by thread (dwunw_bpf_options.threads).
 */
#ifndef DWUNW_BPF_DWUNW_CALLS_BPF_H
#define DWUNW_BPF_DWUNW_CALLS_BPF_H

#ifndef DWUNW_BPF_DWUNW_BPF_H
#error "include <dwunw/bpf/dwunw.bpf.h> before <dwunw/bpf/dwunw_calls.bpf.h>"
#endif

/* A thread's outermost call. */
struct dwunw_call {
    __u64 sp; /* at its entry; 0: none is under way */
    __u64 values[2];
};

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct dwunw_call);
} dwunw_calls SEC(".maps");

/* tid → call, while it is under way */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_call);
} dwunw_thread_calls SEC(".maps");

#ifndef DWUNW_BPF_USER
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
#endif

/* At an entry. 0: within another call, or no memory for one. */
static __always_inline struct dwunw_call *dwunw_call_begin(void *ctx) {
    const __u64 sp = ((const __u64 *)ctx)[19];
    struct dwunw_call *call = dwunw_call_of_thread(1);

    if (!call) {
        dwunw_count(DWUNW_BPF_LOST_CALLS, 1);
        return 0;
    }
    if (sp < call->sp)
        return 0;
    call->sp = sp;
    return call;
}

/* At a return. 1, and the call, which is over: in *out. */
static __always_inline int dwunw_call_end(void *ctx, struct dwunw_call *out) {
    const __u64 sp = ((const __u64 *)ctx)[19];
    struct dwunw_call *call = dwunw_call_of_thread(0);

    if (!call || !call->sp || call->sp + 8 != sp)
        return 0;
    *out = *call;
    dwunw_forget_call(call);
    return 1;
}

#endif
