/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Which processes are watched, and the number that stands for each in the keys of its blocks.
 *
 *     user space: memleak_wanted[pid]      → at its first probe, the process gets a number
 *     fork of a watched process (--follow) → so does the child, before it runs
 *     exec                                 → a new number; the blocks under the old one are gone
 *     exit                                 → the number ends; user space returns it when it has dropped the blocks
 *
 * A number has 16 bits. Free numbers stand in a queue. A child of vfork runs in its parent's memory until it executes
 * a program, so it has its parent's number until then.
 *
 * Processes are looked up by their number in the initial pid namespace, and wanted by their number in user space's.
 */
#ifndef DWUNW_TOOL_PROCESSES_BPF_H
#define DWUNW_TOOL_PROCESSES_BPF_H

#include "events.bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __type(key, __u32);
    __type(value, __u32); /* flags of the process */
} memleak_wanted SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, struct memleak_process);
} memleak_processes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, MEMLEAK_PROCESSES);
    __type(value, __u32);
} memleak_numbers SEC(".maps");

const volatile bool memleak_follow = false;
/* Every process of this cgroup is watched; 0: none. */
const volatile __u64 memleak_cgroup = 0;
/* Every process that executes a program of this name is watched; empty: none. */
const volatile char memleak_comm[16] = {};

/* The command's process. It stops whenever it executes a program, and at the next notification of its dynamic linker,
   until user space has attached the probes. Numbers in user space's pid namespace. */
__u32 memleak_stop_at_exec = 0;
__u32 memleak_stop_at_libraries = 0;

#define MEMLEAK_SIGSTOP 19

struct task_struct___memleak {
    int pid;
    int tgid;
    void *mm;
    void *vfork_done;
    struct task_struct___memleak *real_parent;
    struct signal_struct___dwunw *signal;
} __attribute__((preserve_access_index));

/* Gives a process a number. 0: there is none. */
static __always_inline __u32 memleak_add_process(__u32 tgid, __u32 flags) {
    struct memleak_process process = {.flags = flags};

    if (bpf_map_pop_elem(&memleak_numbers, &process.number) ||
        bpf_map_update_elem(&memleak_processes, &tgid, &process, BPF_ANY)) {
        memleak_count(MEMLEAK_PROCESSES_LOST, 1);
        return 0;
    }
    return process.number;
}

/* Looks for a reason to watch the current process, which is not watched yet. */
__noinline int memleak_meet_process(void) {
    struct task_struct___memleak *task = (void *)bpf_get_current_task();
    const __u32 tgid = bpf_get_current_pid_tgid() >> 32, outer = dwunw_tgid();
    struct memleak_process *parent;
    __u32 *wanted, parent_tgid;

    wanted = outer ? bpf_map_lookup_elem(&memleak_wanted, &outer) : 0;
    if (wanted) {
        memleak_add_process(tgid, *wanted);
        bpf_map_delete_elem(&memleak_wanted, &outer);
        return 0;
    }
    if (memleak_cgroup && bpf_get_current_cgroup_id() == memleak_cgroup) {
        memleak_add_process(tgid, MEMLEAK_PROCESS_ATTACHED);
        return 0;
    }
    /* A child of vfork of a process that was not watched yet when it forked. */
    if (!BPF_CORE_READ(task, vfork_done))
        return 0;
    parent_tgid = BPF_CORE_READ(task, real_parent, tgid);
    parent = bpf_map_lookup_elem(&memleak_processes, &parent_tgid);
    if (parent) {
        struct memleak_process shared = *parent;

        shared.flags |= MEMLEAK_PROCESS_SHARES | MEMLEAK_PROCESS_KNOWN;
        bpf_map_update_elem(&memleak_processes, &tgid, &shared, BPF_ANY);
    }
    return 0;
}

/* The current process; 0: it is not watched. */
static __always_inline struct memleak_process *memleak_current(void) {
    const __u32 tgid = bpf_get_current_pid_tgid() >> 32;
    struct memleak_process *process = bpf_map_lookup_elem(&memleak_processes, &tgid);

    if (!process) {
        memleak_meet_process();
        process = bpf_map_lookup_elem(&memleak_processes, &tgid);
        if (!process)
            return 0;
    }
    if (!(process->flags & MEMLEAK_PROCESS_KNOWN)) {
        process->flags |= MEMLEAK_PROCESS_KNOWN;
        memleak_send_process(MEMLEAK_EVENT_PROCESS, process->number, dwunw_tgid());
    }
    return process;
}

SEC("raw_tp/sched_process_fork")
int memleak_on_fork(struct bpf_raw_tracepoint_args *ctx) {
    struct task_struct___memleak *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
    const __u32 tgid = BPF_CORE_READ(child, tgid), parent_tgid = BPF_CORE_READ(parent, tgid);
    struct memleak_process *known, shared;

    if (BPF_CORE_READ(child, pid) != (int)tgid) /* a thread */
        return 0;
    known = bpf_map_lookup_elem(&memleak_processes, &parent_tgid);
    if (!known)
        return 0;
    if (BPF_CORE_READ(child, mm) == BPF_CORE_READ(parent, mm)) {
        shared = *known;
        shared.flags |= MEMLEAK_PROCESS_SHARES | MEMLEAK_PROCESS_KNOWN;
        bpf_map_update_elem(&memleak_processes, &tgid, &shared, BPF_ANY);
    } else if (memleak_follow) {
        memleak_add_process(tgid, MEMLEAK_PROCESS_FORKED);
    }
    return 0;
}

static __always_inline int memleak_is_comm(void) {
    char comm[16] = {};
    __u32 i;

    if (!memleak_comm[0] || bpf_get_current_comm(comm, sizeof(comm)))
        return 0;
    for (i = 0; i < sizeof(comm); i++) {
        if (comm[i] != memleak_comm[i])
            return 0;
        if (!comm[i])
            break;
    }
    return 1;
}

SEC("raw_tp/sched_process_exec")
int memleak_on_exec(void *ctx) {
    const __u32 tgid = bpf_get_current_pid_tgid() >> 32, outer = dwunw_tgid();
    struct memleak_process *known = bpf_map_lookup_elem(&memleak_processes, &tgid);
    __u32 number = 0;

    (void)ctx;
    if (known) {
        if (!(known->flags & MEMLEAK_PROCESS_SHARES))
            number = known->number;
        bpf_map_delete_elem(&memleak_processes, &tgid);
        /* A child of vfork that is not followed leaves with its exec. */
        if (number || memleak_follow)
            memleak_add_process(tgid, MEMLEAK_PROCESS_KNOWN);
        known = bpf_map_lookup_elem(&memleak_processes, &tgid);
    } else if (memleak_is_comm() || (memleak_cgroup && bpf_get_current_cgroup_id() == memleak_cgroup)) {
        memleak_add_process(tgid, MEMLEAK_PROCESS_KNOWN);
        known = bpf_map_lookup_elem(&memleak_processes, &tgid);
    }
    if (number)
        memleak_send_process(MEMLEAK_EVENT_REPLACED, number, outer);
    if (known)
        memleak_send_process(MEMLEAK_EVENT_EXEC, known->number, outer);
    if (outer && outer == memleak_stop_at_exec)
        bpf_send_signal(MEMLEAK_SIGSTOP);
    return 0;
}

/* On the function that the dynamic linker calls when it has loaded libraries. */
SEC("uprobe")
int memleak_on_libraries(void *ctx) {
    const __u32 outer = dwunw_tgid();

    (void)ctx;
    if (outer && outer == memleak_stop_at_libraries) {
        memleak_stop_at_libraries = 0;
        bpf_send_signal(MEMLEAK_SIGSTOP);
    }
    return 0;
}

SEC("raw_tp/sched_process_exit")
int memleak_on_exit(void *ctx) {
    struct task_struct___memleak *task = (void *)bpf_get_current_task();
    const __u32 tgid = bpf_get_current_pid_tgid() >> 32;
    struct memleak_process *known;

    (void)ctx;
    if (BPF_CORE_READ(task, signal, live.counter))
        return 0;
    known = bpf_map_lookup_elem(&memleak_processes, &tgid);
    if (!known)
        return 0;
    if (!(known->flags & MEMLEAK_PROCESS_SHARES))
        memleak_send_process(MEMLEAK_EVENT_EXIT, known->number, dwunw_tgid());
    bpf_map_delete_elem(&memleak_processes, &tgid);
    return 0;
}

#endif
