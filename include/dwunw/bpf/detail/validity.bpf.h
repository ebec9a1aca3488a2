/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Whether the published map of the current process is valid, and the programs that notice changes: on the dynamic
 * linker's notification, at an exec, and at an exit. src/bpf/map_validity.h is user space's half.
 */
#ifndef DWUNW_BPF_DETAIL_VALIDITY_H
#define DWUNW_BPF_DETAIL_VALIDITY_H

#include "events.bpf.h"

/* Copies the published map of a process into the walk: all of it if it is valid, else the lasting mappings. Returns 0;
   or the reason why the kernel cannot walk, and then walk->layout is 0. */
DWUNW_SHARED __noinline int dwunw_begin(__u32 tgid) {
    __u32 *number = bpf_map_lookup_elem(&dwunw_slots, &tgid), lock, reported = 0;
    struct dwunw_walk *walk = dwunw_scratch(0);
    volatile struct dwunw_process_slot *slot;
    __u64 seen;

    if (!walk)
        return DWUNW_BPF_NO_SCRATCH;
    walk->layout = walk->changes = walk->execs = 0;
    walk->exec_pages = dwunw_exec_pages();
    walk->first = walk->count = walk->lasting = walk->incomplete = 0;
    if (!number) {
        if (!tgid || !dwunw_settings.report_unknown)
            return DWUNW_BPF_UNKNOWN_PROCESS;
        if (!bpf_map_lookup_elem(&dwunw_reported, &tgid)) {
            dwunw_ask_for_process(DWUNW_BPF_EVENT_PROCESS, tgid, 0, walk->exec_pages, &reported);
            if (reported)
                bpf_map_update_elem(&dwunw_reported, &tgid, &reported, BPF_ANY);
        }
        return DWUNW_BPF_CHANGED;
    }
    slot = bpf_map_lookup_elem(&dwunw_processes, number);
    if (!slot)
        return DWUNW_BPF_UNKNOWN_PROCESS;
    lock = slot->lock;
    if (slot->tgid != tgid)
        return DWUNW_BPF_UNKNOWN_PROCESS;
    walk->changes = slot->changes;
    walk->execs = slot->execs;
    seen = slot->seen_changes;
    walk->generation = slot->generation;
    walk->code_filter = slot->code_filter;
    if (!(lock & 1) && walk->generation && seen == walk->changes && slot->exec_pages == walk->exec_pages) {
        walk->first = slot->first;
        walk->count = slot->count;
        walk->layout = slot->layout;
        walk->incomplete = slot->incomplete;
        if (slot->lock == lock)
            return 0;
        walk->layout = 0;
        return DWUNW_BPF_CHANGED;
    }
    if (!slot->need_sent)
        dwunw_ask_for_process(DWUNW_BPF_EVENT_PROCESS, tgid, walk->changes, walk->exec_pages,
                              (__u32 *)&slot->need_sent);
    walk->generation = slot->lasting_generation;
    if (lock & 1 || !walk->generation || slot->seen_execs != walk->execs)
        return DWUNW_BPF_CHANGED;
    walk->first = slot->lasting_first;
    walk->count = slot->lasting_count;
    walk->layout = slot->lasting_layout;
    walk->lasting = 1;
    if (slot->lock == lock)
        return 0;
    walk->layout = 0;
    return DWUNW_BPF_CHANGED;
}

#ifndef DWUNW_BPF_USER
static __always_inline void dwunw_map_changed(__u64 changes, __u64 execs) {
    __u32 tgid = dwunw_tgid();
    __u32 *number = bpf_map_lookup_elem(&dwunw_slots, &tgid);
    struct dwunw_process_slot *slot;

    if (!number)
        return;
    slot = bpf_map_lookup_elem(&dwunw_processes, number);
    if (slot) {
        if (execs)
            __sync_fetch_and_add(&slot->execs, execs);
        __sync_fetch_and_add(&slot->changes, changes);
    }
    dwunw_count(DWUNW_BPF_LINKER_EVENTS, 1);
}

/* Attached to _dl_debug_state, which the dynamic linker calls before and after each load and unload. */
SEC("uprobe")
DWUNW_SHARED int dwunw_on_linker(void *ctx) {
    (void)ctx;
    dwunw_map_changed(1, 0);
    return 0;
}

SEC("raw_tp/sched_process_exec")
DWUNW_SHARED int dwunw_on_exec(void *ctx) {
    (void)ctx;
    dwunw_map_changed(DWUNW_BPF_HIDING_CHANGES, 1);
    return 0;
}

SEC("raw_tp/sched_process_exit")
DWUNW_SHARED int dwunw_on_exit(void *ctx) {
    struct task_struct___dwunw *task = dwunw_task();
    __u32 tid = bpf_get_current_pid_tgid(), tgid, sent = 0, *number;
    struct dwunw_process_slot *slot;

    (void)ctx;
    if (!dwunw_settings.use_task_storage)
        bpf_map_delete_elem(&dwunw_threads, &tid);
    /* Go on only for the process's last thread. Its number cannot yet be another process's. */
    if (BPF_CORE_READ(task, signal, live.counter))
        return 0;
    tgid = dwunw_tgid();
    /* Marks the slot, in case the ring is full. It must precede the event: user space may then reuse the slot. */
    number = bpf_map_lookup_elem(&dwunw_slots, &tgid);
    slot = number ? bpf_map_lookup_elem(&dwunw_processes, number) : 0;
    if (slot)
        *(volatile __u32 *)&slot->tgid = 0;
    if (bpf_map_delete_elem(&dwunw_reported, &tgid) == 0 || number)
        dwunw_ask_for_process(DWUNW_BPF_EVENT_EXIT, tgid, 0, 0, &sent);
    bpf_map_delete_elem(&dwunw_slots, &tgid);
    return 0;
}
#endif /* DWUNW_BPF_USER */

#endif /* DWUNW_BPF_DETAIL_VALIDITY_H */
