/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The current thread, as the kernel knows it: its number, its address space, its pending returns, and the memory that
 * belongs to it alone. CO-RE: libbpf finds the fields by name when it loads the program, so one object fits every
 * kernel. tests/support/bpf_user_walk.c has these functions for user code.
 */
#ifndef DWUNW_BPF_DETAIL_KERNEL_H
#define DWUNW_BPF_DETAIL_KERNEL_H

#include "maps.bpf.h"

#ifndef DWUNW_BPF_USER
/* The fields of kernel types that the walk reads. libbpf finds them by name when it loads the program. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct return_instance___dwunw {
    unsigned long stack;          /* the stack address of the return address */
    unsigned long orig_ret_vaddr; /* the original return address */
    struct return_instance___dwunw *next;
};
struct uprobe_task___dwunw {
    struct return_instance___dwunw *return_instances;
};
struct xol_area___dwunw {
    unsigned long vaddr; /* the trampoline's page */
};
struct uprobes_state___dwunw {
    struct xol_area___dwunw *xol_area;
};
struct mm_struct___dwunw {
    unsigned long exec_vm;
    unsigned long start_stack;
    struct uprobes_state___dwunw uprobes_state;
};
struct thread_struct___dwunw {
    DWUNW_THREAD_FIELDS
};
struct signal_struct___dwunw {
    struct {
        int counter;
    } live;
};
struct ns_common___dwunw {
    unsigned int inum;
};
struct pid_namespace___dwunw {
    struct ns_common___dwunw ns;
};
/* A process's number in one of its namespaces. */
struct upid___dwunw {
    int nr;
    struct pid_namespace___dwunw *ns;
};
struct pid___dwunw {
    unsigned int level;             /* of the innermost namespace */
    struct upid___dwunw numbers[1]; /* level + 1 of them; the first is the initial namespace's */
};
struct task_struct___dwunw {
    struct mm_struct___dwunw *mm;
    struct uprobe_task___dwunw *utask;
    struct signal_struct___dwunw *signal;
    struct task_struct___dwunw *group_leader;
    struct pid___dwunw *thread_pid;
    struct thread_struct___dwunw thread;
};
#pragma clang attribute pop

static __always_inline struct task_struct___dwunw *dwunw_task(void) {
    return (struct task_struct___dwunw *)bpf_get_current_task();
}

/*
 * The current process's number in the loader's pid namespace, if that is not the initial one. 0: the process has no
 * number there. Most processes belong to that namespace itself, so the search begins with the innermost namespace.
 */
DWUNW_SHARED __noinline __u32 dwunw_namespace_tgid(void) {
    struct upid___dwunw *number;
    struct pid___dwunw *pid;
    __u32 level, i;
    __u64 first;

    if (dwunw_settings.off)
        return 0;
    pid = BPF_CORE_READ(dwunw_task(), group_leader, thread_pid);
    first = (__u64)pid + bpf_core_field_offset(struct pid___dwunw, numbers);
    level = BPF_CORE_READ(pid, level);
    for (i = 0; i < DWUNW_BPF_PID_NAMESPACES; i++) {
        number = (void *)(first + (__u64)level * bpf_core_type_size(struct upid___dwunw));
        if (BPF_CORE_READ(number, ns, ns.inum) == dwunw_settings.pid_namespace)
            return BPF_CORE_READ(number, nr);
        if (!level)
            break;
        level--;
    }
    return 0;
}

/* The number of executable pages, without the page that the kernel adds for uprobes at the first probe. */
static __always_inline __u64 dwunw_exec_pages(void) {
    struct task_struct___dwunw *task = dwunw_task();
    struct mm_struct___dwunw *mm = BPF_CORE_READ(task, mm);

    return BPF_CORE_READ(mm, exec_vm) - (BPF_CORE_READ(mm, uprobes_state.xol_area) ? 1 : 0);
}

/* The address of the uretprobe trampoline, which replaces a pending return address; 0: the process has none. */
static __always_inline __u64 dwunw_return_trampoline(void) {
    struct task_struct___dwunw *task = dwunw_task();
    struct xol_area___dwunw *area = BPF_CORE_READ(task, mm, uprobes_state.xol_area);

    return area ? BPF_CORE_READ(area, vaddr) : 0;
}

static __always_inline __u64 dwunw_main_stack_end(void) {
    struct task_struct___dwunw *task = dwunw_task();

    return BPF_CORE_READ(task, mm, start_stack);
}

static __always_inline __u64 dwunw_thread_block(void) {
    struct task_struct___dwunw *task = dwunw_task();

    return BPF_CORE_READ(task, DWUNW_THREAD_BLOCK);
}

/* The thread's pending uretprobes, innermost first. Both functions return the next one; 0: there is none. */
static __always_inline __u64 dwunw_first_pending(void) {
    struct task_struct___dwunw *task = dwunw_task();

    return (__u64)BPF_CORE_READ(task, utask, return_instances);
}

static __always_inline __u64 dwunw_read_pending(__u64 instance, struct dwunw_bpf_pending *out) {
    struct return_instance___dwunw *pending = (void *)instance;

    out->slot = BPF_CORE_READ(pending, stack);
    out->return_address = BPF_CORE_READ(pending, orig_ret_vaddr);
    return (__u64)BPF_CORE_READ(pending, next);
}

static __always_inline struct dwunw_walk *dwunw_thread_walk(__u32 create) {
    __u32 tid = bpf_get_current_pid_tgid(), zero = 0;
    struct dwunw_walk *walk = bpf_map_lookup_elem(&dwunw_threads, &tid), *fresh;

    if (walk || !create)
        return walk;
    fresh = bpf_map_lookup_elem(&dwunw_new_thread, &zero);
    if (!fresh)
        return 0;
    bpf_map_update_elem(&dwunw_threads, &tid, fresh, BPF_NOEXIST);
    return bpf_map_lookup_elem(&dwunw_threads, &tid);
}

static __always_inline struct dwunw_walk *dwunw_scratch(__u32 create) {
    if (dwunw_settings.off)
        return 0;
    if (dwunw_settings.use_task_storage)
        return bpf_task_storage_get(&dwunw_tasks, bpf_get_current_task_btf(), 0,
                                    create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
    return dwunw_thread_walk(create);
}
#endif /* DWUNW_BPF_USER */

/*
 * The current process's number in user space's pid namespace; 0: it has none there. Thread numbers (tid) are those of
 * the initial namespace; user space never sees them.
 */
static __always_inline __u32 dwunw_tgid(void) {
    return dwunw_settings.pid_namespace ? dwunw_namespace_tgid() : bpf_get_current_pid_tgid() >> 32;
}

static __always_inline void dwunw_count(__u32 counter, __u64 by) {
    __u32 zero = 0;
    struct dwunw_counts *counts = bpf_map_lookup_elem(&dwunw_counters, &zero);

    barrier_var(counter);
    if (counts)
        __sync_fetch_and_add(&counts->n[counter & (DWUNW_BPF_COUNTERS - 1)], by);
}

#endif /* DWUNW_BPF_DETAIL_KERNEL_H */
