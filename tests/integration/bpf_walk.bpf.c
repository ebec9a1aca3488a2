// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* Takes the stack of every call of one function, by the kernel's walk and by user space's. */
#include <dwunw/bpf/dwunw.bpf.h>
#include <dwunw/bpf/dwunw_calls.bpf.h>
#include <linux/bpf.h>

#include "bpf_walk.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 compare; /* take the user-space walk's, too */
const volatile __u32 record;  /* calls are told to user space */
const volatile __u64 kernel_flags;

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4 << 20);
} calls SEC(".maps");

__u64 calls_lost;

static __always_inline int take(void *ctx, __u64 number) {
    struct bpf_walk_call call = {.number = number};

    call.kernel = dwunw_get_stackid(ctx, kernel_flags);
    if (compare)
        call.user = dwunw_get_stackid(ctx, DWUNW_USER_ONLY);
    call.pid = dwunw_tgid();
    call.tid = bpf_get_current_pid_tgid();
    if (record && bpf_ringbuf_output(&calls, &call, sizeof(call), 0))
        __sync_fetch_and_add(&calls_lost, 1);
    return 0;
}

SEC("uprobe")
int on_entry(void *ctx) { return take(ctx, ((const __u64 *)ctx)[14]); /* rdi */ }

SEC("uretprobe")
int on_return(void *ctx) { return take(ctx, ((const __u64 *)ctx)[10]); /* rax */ }

/* Its ctx is no pt_regs: this is refused, where it is loaded. */
SEC("?perf_event")
int on_sample(void *ctx) { return dwunw_get_stackid(ctx, 0) < 0; }

/* Calls of functions within each other. */
__u64 calls_begun, calls_ended, calls_mixed_up;

SEC("uprobe")
int call_enters(void *ctx) {
    struct dwunw_call *call = dwunw_call_begin(ctx, 0);

    if (call) {
        call->values[0] = ((const __u64 *)ctx)[19];
        call->values[1] = bpf_get_current_pid_tgid();
        __sync_fetch_and_add(&calls_begun, 1);
    }
    return 0;
}

SEC("uretprobe")
int call_returns(void *ctx) {
    struct dwunw_call call;

    if (!dwunw_call_end(ctx, &call, 0))
        return 0;
    __sync_fetch_and_add(&calls_ended, 1);
    if (call.values[0] + 8 != ((const __u64 *)ctx)[19] || call.values[1] != bpf_get_current_pid_tgid())
        __sync_fetch_and_add(&calls_mixed_up, 1);
    return 0;
}

/* Leaves pending returns in the stack. */
SEC("uretprobe")
int do_nothing(void *ctx) {
    (void)ctx;
    return 0;
}
