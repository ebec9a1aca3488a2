/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What goes to user space through dwunw_events, but for slices: the frames of a complete stack, and the request to read
 * a process's map.
 */
#ifndef DWUNW_BPF_DETAIL_EVENTS_H
#define DWUNW_BPF_DETAIL_EVENTS_H

#include "kernel.bpf.h"

static __always_inline void dwunw_note_sent(__u64 id) {
    __u32 value = 1;

    if (bpf_map_update_elem(&dwunw_sent, &id, &value, BPF_ANY))
        dwunw_count(DWUNW_BPF_FAILED_INSERTS, 1);
}

/* Sends a complete stack's frames, unless user space already has them. Returns the id, or a reason, negated. */
static __always_inline __s64 dwunw_complete(struct dwunw_walk *walk) {
    const __u64 id = dwunw_id(walk->hash, 0);
    __u64 size;

    if (bpf_map_lookup_elem(&dwunw_sent, &id))
        return id;
    walk->stack.head.type = DWUNW_BPF_EVENT_STACK;
    walk->stack.id = id;
    walk->stack.layout = walk->layout;
    size = walk->stack.count;
    barrier_var(size);
    if (size > DWUNW_BPF_MAX_FRAMES)
        size = DWUNW_BPF_MAX_FRAMES;
    size = sizeof(walk->stack) - sizeof(walk->stack.frames) + size * 8;
    if (bpf_ringbuf_output(&dwunw_events, &walk->stack, size, 0))
        return -DWUNW_BPF_DROPPED;
    dwunw_count(DWUNW_BPF_NEW_STACKS, 1);
    dwunw_note_sent(id);
    return id;
}

static __always_inline void dwunw_ask_for_process(__u32 type, __u32 tgid, __u64 changes, __u64 exec_pages,
                                                  __u32 *sent) {
    const struct dwunw_process_event event = {
        .head = {.type = type, .tgid = tgid},
        .changes = changes,
        .exec_pages = exec_pages,
    };

    /* Set it before the request is sent: user space answers by clearing it, and may be faster than this program. */
    *(volatile __u32 *)sent = 1;
    if (bpf_ringbuf_output(&dwunw_events, (void *)&event, sizeof(event), BPF_RB_FORCE_WAKEUP)) {
        *(volatile __u32 *)sent = 0;
        dwunw_count(DWUNW_BPF_NEED_DROPPED, 1);
        return;
    }
    dwunw_count(DWUNW_BPF_NEED_PROCESS, 1);
}

#endif /* DWUNW_BPF_DETAIL_EVENTS_H */
