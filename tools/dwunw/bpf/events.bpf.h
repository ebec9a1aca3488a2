/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* The counters and the events of `dwunw memleak`'s kernel half. */
#ifndef DWUNW_TOOL_EVENTS_BPF_H
#define DWUNW_TOOL_EVENTS_BPF_H

#include "memleak/kernel_types.h"

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct memleak_counts);
} memleak_counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} memleak_events SEC(".maps");

static __always_inline void memleak_count(__u32 counter, __u64 by) {
    const __u32 zero = 0;
    struct memleak_counts *counts = bpf_map_lookup_elem(&memleak_counters, &zero);

    barrier_var(counter);
    if (counts)
        __sync_fetch_and_add(&counts->n[counter & (MEMLEAK_COUNTERS - 1)], by);
}

static __always_inline struct memleak_event *memleak_reserve(__u32 type, __u32 lost) {
    struct memleak_event *event = bpf_ringbuf_reserve(&memleak_events, sizeof(*event), 0);

    if (!event) {
        memleak_count(lost, 1);
        return 0;
    }
    __builtin_memset(event, 0, sizeof(*event));
    event->type = type;
    event->tid = bpf_get_current_pid_tgid();
    event->time = bpf_ktime_get_ns();
    return event;
}

static __always_inline void memleak_send_process(__u32 type, __u32 number, __u64 detail) {
    struct memleak_event *event = memleak_reserve(type, MEMLEAK_EVENTS_LOST);

    if (!event)
        return;
    event->process = number;
    event->detail = detail;
    bpf_ringbuf_submit(event, 0);
}

#endif
