// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* Counts what each probe sees. The cookie says which probe it is, and how many arguments count. */
#include <linux/bpf.h> /* first: libbpf's headers take its types for granted */

#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <stdbool.h>

#include "probe_placement.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, MAX_FUNCTIONS *PLACES);
    __type(key, unsigned int);
    __type(value, struct seen);
} places SEC(".maps");

static unsigned long long mix(unsigned long long hash, unsigned long long value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
    return hash ^ hash >> 29;
}

static void saw(unsigned long long cookie, unsigned long long hash) {
    unsigned int slot = cookie;
    struct seen *seen = bpf_map_lookup_elem(&places, &slot);

    if (!seen)
        return;
    __sync_fetch_and_add(&seen->calls, 1);
    __sync_fetch_and_add(&seen->sum, hash);
}

static int see_entry(struct pt_regs *ctx) {
    unsigned long long cookie = bpf_get_attach_cookie(ctx);
    unsigned int arguments = cookie >> 32;
    unsigned long long hash = mix(1, PT_REGS_SP(ctx));

    if (arguments > 0)
        hash = mix(hash, PT_REGS_PARM1(ctx));
    if (arguments > 1)
        hash = mix(hash, PT_REGS_PARM2(ctx));
    if (arguments > 2)
        hash = mix(hash, PT_REGS_PARM3(ctx));
    if (arguments > 3)
        hash = mix(hash, PT_REGS_PARM4(ctx));
    if (arguments > 4)
        hash = mix(hash, PT_REGS_PARM5(ctx));
    if (arguments > 5)
        hash = mix(hash, ctx->r9);
    saw(cookie, hash);
    return 0;
}

static int see_return(struct pt_regs *ctx) {
    saw(bpf_get_attach_cookie(ctx) + RETURN_AT_ENTRY, mix(mix(2, PT_REGS_SP(ctx)), PT_REGS_RC(ctx)));
    return 0;
}

SEC("uprobe")
int entered(struct pt_regs *ctx) { return see_entry(ctx); }

SEC("uretprobe")
int returned(struct pt_regs *ctx) { return see_return(ctx); }

extern bool bpf_session_is_return(void) __ksym __weak;

SEC("uprobe")
int in_session(struct pt_regs *ctx) { return bpf_session_is_return() ? see_return(ctx) : see_entry(ctx); }
