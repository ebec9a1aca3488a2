// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Pairs entries and returns of the target's functions by dwunw_calls.bpf.h, and checks that each return has its own
 * entry.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <dwunw/bpf/dwunw.bpf.h>
#include <dwunw/bpf/dwunw_calls.bpf.h>

#include "return_probes.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

extern _Bool bpf_session_is_return(void) __ksym __weak;

const volatile _Bool by_instruction;

__u64 entered, begun, ended, wrong, jumps;

static __always_inline int enter(void *ctx) {
    const __u64 *regs = ctx;
    struct dwunw_call *call;

    if (bpf_get_attach_cookie(ctx) == RETURN_PROBES_LONGJMP) {
        __sync_fetch_and_add(&jumps, 1);
        dwunw_call_jump(ctx);
        return 1;
    }
    __sync_fetch_and_add(&entered, 1);
    call = dwunw_call_begin(ctx, by_instruction ? DWUNW_CALL_BY_INSTRUCTION : 0);
    if (!call)
        return 1;
    call->values[0] = regs[14]; /* rdi */
    __sync_fetch_and_add(&begun, 1);
    return 0;
}

static __always_inline int leave(void *ctx) {
    const __u64 *regs = ctx;
    struct dwunw_call call;

    if (!dwunw_call_end(ctx, &call, by_instruction ? DWUNW_CALL_BY_INSTRUCTION : 0))
        return 0;
    __sync_fetch_and_add(&ended, 1);
    if (regs[10] != RETURN_PROBES_RESULT(call.values[0])) /* rax */
        __sync_fetch_and_add(&wrong, 1);
    return 0;
}

SEC("uprobe")
int on_both(void *ctx) { return bpf_session_is_return() ? leave(ctx) : enter(ctx); }

SEC("uprobe")
int on_entry(void *ctx) {
    enter(ctx);
    return 0;
}

SEC("uretprobe")
int on_return(void *ctx) { return leave(ctx); }
