/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Complete user-space stacks inside BPF. dwunw_get_stackid(ctx, flags) replaces
 * bpf_get_stackid(ctx, &map, BPF_F_USER_STACK):
 *
 *     SEC("uprobe") int on_call(void *ctx) {
 *             __s64 id = dwunw_get_stackid(ctx, 0);     > 0: a stack id; < 0: a reason, negated
 *             …
 *
 * <dwunw/bpf_stacks.h> is the loader's half. It fills the maps below; without it every process is unknown here. For
 * non-sleepable programs whose ctx is a struct pt_regs (uprobes, uretprobes, sessions). Include it once, after
 * vmlinux.h or <linux/bpf.h>. The names of its maps, functions and programs begin with dwunw_.
 *
 * The walk. It executes the same rules as the user-space walk (dwunw/unwind.h). It never guesses: if a table rule does
 * not decide the next frame, the registers and a slice of the stack go to user space, which walks them and keeps the
 * result under the id that was returned here. So an id never stands for a wrong stack. It may stand for an incomplete
 * one, with its reason.
 *
 * Speed. The walk reads the stack in pieces of 2 KiB instead of word by word. A cache, pc → rule, holds the rules that
 * were found before. An entry is two words: the rule, and a key that contains the whole pc. Both are written without a
 * lock. The key is stored combined with a hash of the rule, so a pair that another CPU or a preemption has torn does
 * not match.
 *
 * Validity. The walk uses the published map of a process only while all of these hold:
 *   (a) the dynamic linker has announced no change since;
 *   (b) the address space has the same number of executable pages;
 *   (c) the process has not executed another program.
 * Otherwise the kernel asks user space, once, to read the process's map again. Until user space has done so, a walk
 * uses only the lasting mappings, which the dynamic linker never unloads; for those, (c) alone must hold. So a process
 * that loads and unloads plugins all the time is still walked in the kernel, except for stacks that lead through a
 * plugin.
 *
 * State. Uprobe programs can be preempted, so per-CPU memory could belong to another task's walk. The state of a walk
 * lies in task storage, or, where the kernel has none, in a hash by thread.
 *
 * dwunw_bpf_start attaches the programs at the end of this file. If DWUNW_BPF_OLD is defined, the object contains no
 * bpf_loop: Linux before 5.13 refuses an object that contains it, even if it is never called.
 *
 * Proved by tests/unit/bpf_walk_test, which compiles this file as user code and compares it with dwunw_capture, and by
 * tests/integration/bpf_walk_test.py in the kernel.
 */
#ifndef DWUNW_BPF_DWUNW_BPF_H
#define DWUNW_BPF_DWUNW_BPF_H

#ifndef DWUNW_BPF_USER
#ifndef __VMLINUX_H__
#include <linux/bpf.h>
#endif
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#endif

#include "dwunw_types.h"

/*
 * The verifier checks a global function once, by itself. It checks a static function at each call, for each state that
 * can reach the call. So a function is global unless it is on the path of a stack whose rules are all cached.
 */
#ifndef barrier_var
#define barrier_var(variable) __asm__ volatile("" : "+r"(variable))
#endif

/* One walk. */
struct dwunw_walk {
    __u64 pc; /* of the current frame */
    __u64 sp;
    __u64 fp;
    __u64 hash; /* of the layout and the frames so far */
    __u64 slot; /* the stack address that pc was read from */
    __u64 word; /* the word that dwunw_read_beyond has read */
    __u64 last_cfa;
    __u64 window_start; /* a multiple of 8 */
    __u64 pending;      /* the next of the kernel's pending returns */
    __u32 window_size;
    __u32 reason;
    __u32 exact; /* pc is an instruction's address */
    __u32 fp_known;
    __u32 repaired; /* pc comes from a pending return */
    __u32 pending_begun;
    __u32 misses;
    __u32 trampolines;
    __u32 busy;
    __u32 ended;
    __u32 any_code; /* the published mappings cannot show that a word is not code */
    __u32 lasting;  /* the map has changed; this walk uses the lasting mappings */

    /* the process's slot (struct dwunw_process_slot), at the beginning of the walk */
    __u64 layout;
    __u64 changes;
    __u64 exec_pages;
    __u64 execs;
    __u64 code_filter;
    __u32 first;
    __u32 count;
    __u32 generation;
    __u32 incomplete; /* not every executable mapping is published */

    struct dwunw_mapping mapping; /* the last one found */

    /* a slice and its identity, see dwunw_identify */
    __u64 initial_sp;
    __u64 identity;
    __u64 slice_start;
    __u64 slice_size;
    __u64 regs[DWUNW_BPF_PT_REGS];

    struct dwunw_stack_event stack;
    __u64 window[DWUNW_BPF_WINDOW / 8];
};

/* Counts the new stacks for user space that begin with the same frames. */
struct dwunw_path {
    __u64 since_ns; /* the counting second began */
    __u32 count;
    __u32 reserved;
};

/* The tables of all modules, see dwunw_types.h. The sizes of maps here are examples: dwunw_bpf_open sets them. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1 << 20);
    __type(key, __u32);
    __type(value, __u64);
} dwunw_pool SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 16384);
    __type(key, __u32);
    __type(value, struct dwunw_mapping);
} dwunw_mappings SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, struct dwunw_process_slot);
} dwunw_processes SEC(".maps");

/* tgid → index in dwunw_processes */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, __u32);
} dwunw_slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1 << DWUNW_BPF_CACHE_BITS);
    __type(key, __u32);
    __type(value, struct dwunw_cached_rule);
} dwunw_rules SEC(".maps");

/* Ids that were sent to user space. An id that falls out of the map is sent again. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 32768);
    __type(key, __u64);
    __type(value, __u32);
} dwunw_sent SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, struct dwunw_path);
} dwunw_paths SEC(".maps");

/* Unknown processes that were reported to user space. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, __u32);
} dwunw_reported SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct dwunw_walk);
} dwunw_tasks SEC(".maps");

/* tid → walk, without task storage. dwunw_new_thread is the initial value of an entry. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_walk);
} dwunw_threads SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_walk);
} dwunw_new_thread SEC(".maps");

struct dwunw_counts {
    __u64 n[DWUNW_BPF_COUNTERS];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_counts);
} dwunw_counters SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4 << 20);
} dwunw_events SEC(".maps");

#ifndef DWUNW_BPF_USER
const volatile struct dwunw_settings dwunw_settings SEC(".rodata.dwunw") = {};

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
    unsigned long fsbase;
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
__noinline __u32 dwunw_namespace_tgid(void) {
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

    return BPF_CORE_READ(task, thread.fsbase);
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

#define DWUNW_HASH_FACTOR 0x9e3779b97f4a7c15ull

static __always_inline __u64 dwunw_mix(__u64 word) {
    word = (word ^ word >> 32) * DWUNW_HASH_FACTOR;
    return word ^ word >> 29;
}

static __always_inline __u64 dwunw_hash(__u64 hash, __u64 word) {
    hash = (hash ^ word) * DWUNW_HASH_FACTOR;
    return hash ^ hash >> 32;
}

static __always_inline __u64 dwunw_id(__u64 hash, __u64 left) {
    hash = (hash & (DWUNW_BPF_ID_LEFT - 1)) | left;
    return hash >> 32 ? hash : hash | 1ull << 32;
}

static __always_inline int dwunw_stop(struct dwunw_walk *walk, __u32 reason) {
    walk->reason = reason;
    walk->ended = 1;
    return 1;
}

/*
 * Stack words.
 */

/* Moves the window to an address. A read fails as a whole if a part of it fails; then reads only to the page's end. */
__noinline int dwunw_read_beyond(__u64 address) {
    struct dwunw_walk *walk = dwunw_scratch(0);
    __u64 start = address, in_page;

    if (!walk)
        return 1;
    if (address & 7)
        return bpf_probe_read_user(&walk->word, sizeof(walk->word), (void *)address) ? 1 : 0;
    /* Callee-saved registers lie below return addresses, and the red zone below SP: begin a little lower. */
    if ((address & (DWUNW_BPF_PAGE - 1)) >= DWUNW_BPF_RED_ZONE)
        start -= DWUNW_BPF_RED_ZONE;
    walk->window_start = start;
    walk->window_size = DWUNW_BPF_WINDOW;
    if (bpf_probe_read_user(walk->window, DWUNW_BPF_WINDOW, (void *)start)) {
        walk->window_size = 0;
        in_page = DWUNW_BPF_PAGE - (start & (DWUNW_BPF_PAGE - 1));
        barrier_var(in_page);
        if (in_page >= DWUNW_BPF_WINDOW || bpf_probe_read_user(walk->window, in_page, (void *)start))
            return 1;
        walk->window_size = in_page;
    }
    address -= walk->window_start;
    if (address >= walk->window_size)
        return 1;
    walk->word = walk->window[address / 8 & (DWUNW_BPF_WINDOW / 8 - 1)];
    return 0;
}

static __always_inline int dwunw_read_word(struct dwunw_walk *walk, __u64 address, __u64 *value) {
    const __u64 offset = address - walk->window_start;

    if (offset < walk->window_size && !(offset & 7)) {
        *value = walk->window[offset / 8 & (DWUNW_BPF_WINDOW / 8 - 1)];
        return 0;
    }
    if (dwunw_read_beyond(address))
        return 1;
    *value = walk->word;
    return 0;
}

/*
 * Tables.
 */

static __always_inline __u64 dwunw_cell(__u64 index) {
    __u32 key = index;
    __u64 *cell = bpf_map_lookup_elem(&dwunw_pool, &key);

    return cell ? *cell : 0;
}

static __always_inline __u32 dwunw_unit(__u64 index) { return dwunw_cell(index / 4) >> (index % 4 * 16) & 0xffff; }

/* The entry of a row that is in the overflow array; 0: there is none. */
__noinline __u64 dwunw_overflow_entry(__u64 first, __u32 count, __u32 unit) {
    __u32 low = 0, high = count, i;
    __u64 cell;

    if (dwunw_settings.off)
        return 0;
    for (i = 0; i < DWUNW_BPF_OVERFLOW_STEPS && low < high; i++) {
        const __u32 middle = low + (high - low) / 2;

        if ((__u32)dwunw_cell(first + middle) < unit)
            low = middle + 1;
        else
            high = middle;
    }
    cell = dwunw_cell(first + low);
    return low < count && (__u32)cell == unit ? cell >> 32 : 0;
}

/* The rule at an offset from a table's first page; 0: there is none. doc/table_format.md, "Lookup". */
__noinline __u64 dwunw_table_rule(__u64 table, __u64 offset) {
    const __u64 sizes = dwunw_cell(table), places = dwunw_cell(table + 1);
    const __u64 page_number = offset >> 16;
    __u32 within = offset & 1023, block = offset >> 10 & 63;
    __u32 count, low, high, last, key, row, slot, i;
    __u64 page, units, rows, entry;

    if (dwunw_settings.off || page_number >= (__u32)sizes)
        return 0;
    page = (__u32)(dwunw_cell(table + DWUNW_BPF_TABLE_CELLS + page_number / 2) >> (page_number % 2 * 32));
    if (page >> 31) {
        entry = page & 0x7fffffff;
    } else {
        units = (table + (sizes >> 32)) * 4 + page;
        count = dwunw_unit(units) + 1;
        low = block ? dwunw_unit(units + block) : 0;
        last = high = block == 63 ? count : dwunw_unit(units + block + 1);
        rows = units + 64;
        key = within << 6 | 63;
        for (i = 0; i < DWUNW_BPF_BLOCK_STEPS && low < high; i++) {
            const __u32 middle = (low + high) / 2;

            if (dwunw_unit(rows + middle) <= key)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < last) {
            row = dwunw_unit(rows + low);
            slot = row & 63;
            if (slot != 63 && (row >> 6) - within <= dwunw_unit(rows + count + slot) >> 12)
                return 0; /* the gap before the next row */
        }
        low -= 1;
        slot = dwunw_unit(rows + low) & 63;
        if (slot == 63)
            entry = dwunw_overflow_entry(table + (places >> 32), dwunw_cell(table + 2), page + 64 + low);
        else
            entry = dwunw_unit(rows + count + slot) & 0xfff;
    }
    return entry < 2 ? 0 : dwunw_cell(table + (__u32)places + entry - 2);
}

/*
 * Mappings.
 */

static __always_inline struct dwunw_mapping *dwunw_mapping_at(__u32 first, __u32 count, __u64 address) {
    __u32 low = 0, high = count, index, i;
    struct dwunw_mapping *mapping;

    /* The first mapping that ends behind the address. */
    for (i = 0; i < DWUNW_BPF_MAPPING_STEPS && low < high; i++) {
        const __u32 middle = (low + high) / 2;

        index = first + middle;
        mapping = bpf_map_lookup_elem(&dwunw_mappings, &index);
        if (!mapping)
            return 0;
        if (mapping->end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low >= count)
        return 0;
    index = first + low;
    mapping = bpf_map_lookup_elem(&dwunw_mappings, &index);
    return mapping && mapping->start <= address ? mapping : 0;
}

/* Sets walk->mapping to the mapping that holds an address. 0: there is none. */
static __noinline int dwunw_locate(struct dwunw_walk *walk, __u64 address) {
    struct dwunw_mapping *found;

    if (address >= walk->mapping.start && address < walk->mapping.end)
        return 1;
    found = dwunw_mapping_at(walk->first, walk->count, address);
    if (!found) {
        walk->mapping.start = walk->mapping.end = 0;
        return 0;
    }
    walk->mapping = *found;
    return 1;
}

/* Sets walk->pc to the return address that the kernel has replaced at walk->slot. 0: no pending return has it. */
static __noinline int dwunw_take_pending(struct dwunw_walk *walk) {
    struct dwunw_bpf_pending pending;
    __u64 instance = walk->pending;
    __u32 i;

    if (!walk->pending_begun)
        instance = dwunw_first_pending();
    walk->pending_begun = 1;
    for (i = 0; i < DWUNW_BPF_PENDING_MAX && instance; i++) {
        instance = dwunw_read_pending(instance, &pending);
        if (pending.slot == walk->slot) {
            walk->pending = instance;
            walk->pc = pending.return_address;
            return 1;
        }
    }
    return 0;
}

static __always_inline __u64 dwunw_cache_key(const struct dwunw_walk *walk, __u64 pc) {
    return pc << (1 + DWUNW_BPF_GENERATION_BITS) | (__u64)walk->exact << DWUNW_BPF_GENERATION_BITS | walk->generation;
}

static __always_inline struct dwunw_cached_rule *dwunw_cached(__u64 pc) {
    __u32 index = pc * DWUNW_HASH_FACTOR >> (64 - DWUNW_BPF_CACHE_BITS);

    return bpf_map_lookup_elem(&dwunw_rules, &index);
}

/* mov $15, %rax and the first byte of syscall: the kernel's return from a signal handler. */
#define DWUNW_SIGNAL_CODE 0x0f0000000fc0c748ull

/*
 * Whether walk->pc may be a return address that follows no call. `rule` is the rule of the byte before it.
 *
 * A signal handler returns to the first byte of a trampoline. If the trampoline has no call-frame information, as in
 * musl, the byte before it belongs to another function. libgcc returns to a landing pad. If the byte at pc has the same
 * rule, it does not matter.
 */
static __noinline int dwunw_may_be_no_call(struct dwunw_walk *walk, __u64 rule) {
    const __u64 pc = walk->pc, behind = dwunw_table_rule(walk->mapping.table, pc - walk->mapping.origin);
    __u64 code;

    if (behind == rule)
        return 0;
    if (!behind && !bpf_probe_read_user(&code, sizeof(code), (void *)pc) && code == DWUNW_SIGNAL_CODE)
        return 1;
    if (pc >= walk->mapping.end)
        return 0;
    /* call with a 32-bit distance, the one that needs no decoding */
    return bpf_probe_read_user(&code, sizeof(code), (void *)(pc - 8)) || (code >> 24 & 0xff) != 0xe8;
}

/* The rule at walk->pc. Replaces the uretprobe trampoline by the pending return first. 0: the walk ends. */
__noinline __u64 dwunw_find_rule(void) {
    struct dwunw_walk *walk = dwunw_scratch(0);
    struct dwunw_cached_rule *entry;
    __u64 rule;
    int mapped;

    if (!walk)
        return 0;
    walk->misses++;
    mapped = dwunw_locate(walk, walk->pc - !walk->exact);
    /* The byte before the trampoline belongs to another mapping, or to none. */
    if (!walk->exact && (!mapped || walk->pc >= walk->mapping.end) && walk->pc == dwunw_return_trampoline()) {
        if (!dwunw_take_pending(walk)) {
            dwunw_stop(walk, DWUNW_BPF_TRAMPOLINE);
            return 0;
        }
        walk->trampolines++;
        walk->repaired = 1;
        if (!walk->pc) {
            dwunw_stop(walk, DWUNW_BPF_COMPLETE);
            return 0;
        }
        mapped = dwunw_locate(walk, walk->pc - 1);
    }
    if (!mapped) {
        /* Only the lasting mappings are valid now; or only a part of the mappings is published. */
        dwunw_stop(walk, walk->lasting      ? DWUNW_BPF_CHANGED
                         : walk->incomplete ? DWUNW_BPF_NOT_PUBLISHED
                                            : DWUNW_BPF_NO_MAPPING);
        return 0;
    }
    if (walk->mapping.kind != DWUNW_MAPPING_MODULE) {
        dwunw_stop(walk, walk->mapping.kind);
        return 0;
    }
    rule = dwunw_table_rule(walk->mapping.table, walk->pc - !walk->exact - walk->mapping.origin);
    if (!rule) {
        dwunw_stop(walk, DWUNW_BPF_GAP);
        return 0;
    }
    if (!walk->exact && dwunw_may_be_no_call(walk, rule)) {
        dwunw_stop(walk, DWUNW_BPF_NO_CALL);
        return 0;
    }
    /* Do not cache a return address at the mapping's end: the kernel may later place the trampoline there. */
    entry = dwunw_cached(walk->pc);
    if (entry && walk->pc < walk->mapping.end && !(walk->pc >> DWUNW_BPF_PC_BITS)) {
        *(volatile __u64 *)&entry->rule = rule;
        *(volatile __u64 *)&entry->key = dwunw_cache_key(walk, walk->pc) ^ dwunw_mix(rule);
    }
    return rule;
}

/*
 * Writes the current frame and moves to its caller. Returns 1 when the walk has ended.
 */
static __always_inline int dwunw_step(struct dwunw_walk *walk) {
    __u64 pc = walk->pc, sp = walk->sp, fp = walk->fp, rule, cfa, slot, outer, word;
    __u32 cfa_kind, kind, count, fp_known = walk->fp_known;
    struct dwunw_cached_rule *entry;

    entry = dwunw_cached(pc);
    if (!entry)
        return dwunw_stop(walk, DWUNW_BPF_NO_TABLE);
    rule = *(volatile __u64 *)&entry->rule;
    word = *(volatile __u64 *)&entry->key;
    /* With 5-level paging, the page of the uretprobe trampoline has an address with more bits than the key holds. */
    if (pc >> DWUNW_BPF_PC_BITS || (word ^ dwunw_mix(rule)) != dwunw_cache_key(walk, pc)) {
        rule = dwunw_find_rule();
        if (!rule)
            return 1;
        pc = walk->pc;
    }

    count = walk->stack.count;
    if (count >= dwunw_settings.max_frames)
        return dwunw_stop(walk, DWUNW_BPF_FRAME_LIMIT);
    word = pc;
    if (walk->exact)
        word |= DWUNW_BPF_FRAME_EXACT;
    if (rule & DWUNW_RULE_SIGNAL)
        word |= DWUNW_BPF_FRAME_SIGNAL;
    if (walk->repaired)
        word |= DWUNW_BPF_FRAME_TRAMPOLINE;
    walk->repaired = 0;
    walk->stack.frames[count & (DWUNW_BPF_MAX_FRAMES - 1)] = word;
    walk->stack.count = count + 1;
    walk->hash = dwunw_hash(walk->hash, word);

    cfa_kind = rule & 7;
    if (cfa_kind >= DWUNW_RULE_CFA_ROOT)
        return dwunw_stop(walk, cfa_kind == DWUNW_RULE_CFA_ROOT ? DWUNW_BPF_COMPLETE : DWUNW_BPF_COMPLEX);
    cfa = DWUNW_RULE_FIELD(rule, CFA_OFFSET);
    if (cfa_kind == DWUNW_RULE_CFA_FP || cfa_kind == DWUNW_RULE_CFA_AT_FP) {
        if (!fp_known)
            return dwunw_stop(walk, DWUNW_BPF_REGISTER);
        cfa += fp;
    } else {
        cfa += sp;
    }
    if (cfa_kind == DWUNW_RULE_CFA_AT_SP || cfa_kind == DWUNW_RULE_CFA_AT_FP) {
        if (dwunw_read_word(walk, cfa, &word))
            return dwunw_stop(walk, DWUNW_BPF_UNREADABLE);
        cfa = word + 8 * DWUNW_RULE_FIELD(rule, ADDEND);
    } else if (cfa_kind != DWUNW_RULE_CFA_FP) {
        if (cfa_kind == DWUNW_RULE_CFA_PLT && (pc & 15) >= (__u64)DWUNW_RULE_FIELD(rule, ADDEND))
            cfa += 8;
        if (cfa <= sp)
            return dwunw_stop(walk, DWUNW_BPF_NO_PROGRESS);
    }

    slot = DWUNW_RULE_FIELD(rule, RA_OFFSET);
    kind = rule >> DWUNW_RULE_RA_SHIFT & 3;
    if (kind == DWUNW_RULE_RA_AT_CFA) {
        slot += cfa;
    } else if (kind == DWUNW_RULE_RA_AT_SP) {
        slot += sp;
    } else {
        if (!fp_known)
            return dwunw_stop(walk, DWUNW_BPF_REGISTER);
        slot += fp;
    }

    kind = rule >> DWUNW_RULE_FP_SHIFT & 7;
    if (kind != DWUNW_RULE_FP_SAME) {
        word = DWUNW_RULE_FIELD(rule, FP_OFFSET);
        if (kind == DWUNW_RULE_FP_AT_CFA || kind == DWUNW_RULE_FP_CFA_PLUS)
            word += cfa;
        else if (kind == DWUNW_RULE_FP_AT_SP)
            word += sp;
        else
            word += fp;
        if (kind == DWUNW_RULE_FP_UNDEFINED || (kind == DWUNW_RULE_FP_AT_FP && !fp_known)) {
            fp_known = 0;
        } else if (kind == DWUNW_RULE_FP_CFA_PLUS) {
            fp = word;
            fp_known = 1;
        } else {
            if (dwunw_read_word(walk, word, &fp))
                return dwunw_stop(walk, DWUNW_BPF_UNREADABLE);
            fp_known = 1;
        }
    }
    if (dwunw_read_word(walk, slot, &outer))
        return dwunw_stop(walk, DWUNW_BPF_UNREADABLE);
    /* A return address of 0 is the root. But a signal may have interrupted a call through a null pointer: then 0 is
       the interrupted pc. */
    if (!outer && !(rule & DWUNW_RULE_SIGNAL))
        return dwunw_stop(walk, DWUNW_BPF_COMPLETE);
    if (outer == pc && cfa == walk->last_cfa)
        return dwunw_stop(walk, DWUNW_BPF_NO_PROGRESS);
    walk->last_cfa = cfa;
    walk->exact = rule & DWUNW_RULE_SIGNAL ? 1 : 0;
    walk->slot = slot;
    walk->pc = outer;
    walk->sp = cfa;
    walk->fp = fp;
    walk->fp_known = fp_known;
    return 0;
}

#ifndef DWUNW_BPF_OLD
struct dwunw_loop {
    struct dwunw_walk *walk;
};

static long dwunw_loop_step(__u32 index, struct dwunw_loop *loop) {
    (void)index;
    return dwunw_step(loop->walk);
}
#endif

/* Global, so that the verifier checks it once and the loop around it costs the verifier next to nothing. */
__noinline int dwunw_step_alone(void) {
    struct dwunw_walk *walk = dwunw_scratch(0);

    return walk ? dwunw_step(walk) : 1;
}

static __always_inline void dwunw_walk_frames(struct dwunw_walk *walk) {
    __u32 i;

#ifndef DWUNW_BPF_OLD
    if (dwunw_settings.use_bpf_loop) {
        struct dwunw_loop loop = {.walk = walk};

        /* One step more than there may be frames: the last step stops with DWUNW_BPF_FRAME_LIMIT. */
        bpf_loop(DWUNW_BPF_MAX_FRAMES + 1, dwunw_loop_step, &loop, 0);
        return;
    }
#endif
    for (i = 0; i < DWUNW_BPF_MAX_FRAMES_OLD + 1; i++)
        if (dwunw_step_alone())
            break;
}

/*
 * Stacks for user space.
 */

/* Whether a word may be a return address. Only the published mappings can show that it is not. */
__noinline int dwunw_may_be_code(__u64 address) {
    struct dwunw_walk *walk = dwunw_scratch(0);

    if (!walk || walk->any_code)
        return 1;
    return dwunw_mapping_at(walk->first, walk->count, address - 1) ? 1 : 0;
}

/* Adds the words of the window to walk->identity. */
__noinline int dwunw_identify_window(__u64 address) {
    struct dwunw_walk *walk = dwunw_scratch(0);
    __u64 identity, offset, word;
    __u32 i;

    if (!walk)
        return 1;
    identity = walk->identity;
    offset = address - walk->initial_sp;
    for (i = 0; i < DWUNW_BPF_WINDOW / 8; i++) {
        if (i * 8 >= walk->window_size)
            break;
        word = walk->window[i];
        if (word - walk->slice_start < walk->slice_size)
            identity = dwunw_hash(dwunw_hash(identity, offset + i * 8), word - walk->initial_sp);
        else if (!(word >> DWUNW_BPF_ADDRESS_BITS) && walk->code_filter >> DWUNW_BPF_FILTER_BIT(word) & 1 &&
                 dwunw_may_be_code(word))
            identity = dwunw_hash(dwunw_hash(identity, offset + i * 8), word);
    }
    walk->identity = identity;
    return 0;
}

/*
 * Computes the identity of a slice, which becomes its stack id. Two slices with the same identity have the same frames:
 *
 *     SP + 0x08   0x0000000000000003     a number: ignored
 *     SP + 0x10   0x00007ffc00001040     an address within the slice: its position and its distance from SP count
 *     SP + 0x18   0x000055a0c4e53a63     an address of code: its position and its value count
 *
 * These two kinds of word, the registers, and the original addresses of pending returns decide every frame that a walk
 * can find. All other words may differ from call to call.
 */
static __always_inline void dwunw_identify(struct dwunw_walk *walk, __u64 start, __u64 length) {
    __u64 address = start, size, i;

    /* In pieces that do not cross the end of a page. */
    for (i = 0; i < DWUNW_BPF_SLICE_MAX / DWUNW_BPF_WINDOW + 1; i++) {
        if (address - start >= length)
            break;
        size = DWUNW_BPF_WINDOW - (address & (DWUNW_BPF_WINDOW - 1));
        barrier_var(size);
        if (size > DWUNW_BPF_WINDOW)
            break;
        walk->window_start = address;
        walk->window_size = size;
        if (!bpf_probe_read_user(walk->window, size, (void *)address))
            dwunw_identify_window(address);
        address += size;
    }
}

/* The frames of the main thread end below the program's arguments, those of another thread below its control block. */
static __always_inline __u64 dwunw_slice_length(__u64 start) {
    const __u64 arguments = dwunw_main_stack_end(), block = dwunw_thread_block();
    __u64 length = dwunw_settings.slice_bytes;

    if (arguments > start + DWUNW_BPF_RED_ZONE && arguments - start < length)
        length = arguments - start;
    if (block > start + DWUNW_BPF_RED_ZONE && block - start < length)
        length = block - start;
    return length;
}

static __always_inline void dwunw_fill_event(struct dwunw_walk_event *event, struct dwunw_walk *walk, __u64 id) {
    struct dwunw_bpf_pending pending;
    __u64 instance;
    __u32 i;

    event->head.type = DWUNW_BPF_EVENT_WALK;
    event->head.tgid = walk->stack.head.tgid;
    event->id = id;
    event->layout = walk->layout;
    event->changes = walk->changes;
    event->exec_pages = walk->exec_pages;
    event->execs = walk->execs;
    event->time_ns = bpf_ktime_get_ns();
    event->reason = walk->reason;
    for (i = 0; i < DWUNW_BPF_PT_REGS; i++)
        event->pt_regs[i] = walk->regs[i];
    instance = dwunw_first_pending();
    for (i = 0; i < DWUNW_BPF_PENDING_MAX && instance; i++) {
        instance = dwunw_read_pending(instance, &pending);
        event->pending[i] = pending;
    }
    event->pending_count = i;
}

/* Sends a slice of at most `size` bytes, in one read. 1: a part cannot be read; 2: the ring buffer is full. */
static __always_inline int dwunw_send_whole(const __u64 size, struct dwunw_walk *walk, __u64 id) {
    struct dwunw_walk_event *event = bpf_ringbuf_reserve(&dwunw_events, sizeof(*event) + size, 0);
    __u64 length = walk->slice_size;

    if (!event)
        return 2;
    /* The compiler must compare and use the same register: the verifier tracks bounds by register. */
    barrier_var(length);
    if (length > size)
        length = size;
    if (bpf_probe_read_user(event + 1, length, (void *)walk->slice_start)) {
        bpf_ringbuf_discard(event, 0);
        return 1;
    }
    event->stack_addr = walk->slice_start;
    event->stack_len = length;
    event->pages = ~0u;
    dwunw_fill_event(event, walk, id);
    bpf_ringbuf_submit(event, 0);
    return 0;
}

/* Sends a slice page by page, from the page that holds its first byte. A stack may have pages that were never touched,
   which cannot be read. */
static __always_inline int dwunw_send_pages(const __u64 pages, struct dwunw_walk *walk, __u64 id) {
    struct dwunw_walk_event *event = bpf_ringbuf_reserve(&dwunw_events, sizeof(*event) + pages * DWUNW_BPF_PAGE, 0);
    const __u64 start = walk->slice_start & ~(DWUNW_BPF_PAGE - 1ull);
    const __u64 length = walk->slice_start + walk->slice_size - start;
    __u32 readable = 0, i;

    if (!event)
        return 2;
    for (i = 0; i < pages && i * DWUNW_BPF_PAGE < length; i++)
        if (!bpf_probe_read_user((__u8 *)(event + 1) + i * DWUNW_BPF_PAGE, DWUNW_BPF_PAGE,
                                 (void *)(start + i * DWUNW_BPF_PAGE)))
            readable |= 1u << i;
    event->stack_addr = start;
    event->stack_len = i * DWUNW_BPF_PAGE;
    event->pages = readable;
    dwunw_fill_event(event, walk, id);
    bpf_ringbuf_submit(event, 0);
    return 0;
}

static __noinline int dwunw_send_slice(struct dwunw_walk *walk, __u64 id) {
    int result = 1;

    if (walk->slice_size <= 1024)
        result = dwunw_send_whole(1024, walk, id);
    else if (walk->slice_size <= 4096)
        result = dwunw_send_whole(4096, walk, id);
    else if (walk->slice_size <= 16384)
        result = dwunw_send_whole(16384, walk, id);
    return result == 1 ? dwunw_send_pages(DWUNW_BPF_SLICE_MAX / DWUNW_BPF_PAGE + 1, walk, id) : result;
}

/* Whether `limit` new stacks of this path were already sent in this second. Counts one more if not. */
static __always_inline int dwunw_path_is_full(__u64 path, __u32 limit) {
    const __u64 now = bpf_ktime_get_ns();
    struct dwunw_path *known = bpf_map_lookup_elem(&dwunw_paths, &path);
    __u32 count;

    if (!known) {
        const struct dwunw_path fresh = {.since_ns = now, .count = 1};

        bpf_map_update_elem(&dwunw_paths, &path, &fresh, BPF_ANY);
        return 0;
    }
    if (now - known->since_ns > 1000000000ull) {
        known->since_ns = now;
        known->count = 0;
    }
    /* Two CPUs may count at the same time and let one more through. */
    count = known->count;
    if (count >= limit)
        return 1;
    known->count = count + 1;
    return 0;
}

static __always_inline void dwunw_note_sent(__u64 id) {
    __u32 value = 1;

    if (bpf_map_update_elem(&dwunw_sent, &id, &value, BPF_ANY))
        dwunw_count(DWUNW_BPF_FAILED_INSERTS, 1);
}

/* Adds the original addresses of pending returns to walk->identity: the slice itself does not contain them. */
static __always_inline void dwunw_identify_pending(struct dwunw_walk *walk) {
    struct dwunw_bpf_pending pending;
    __u64 instance = dwunw_first_pending(), identity = walk->identity;
    __u32 i;

    for (i = 0; i < DWUNW_BPF_PENDING_MAX && instance; i++) {
        instance = dwunw_read_pending(instance, &pending);
        if (pending.slot - walk->slice_start < walk->slice_size)
            identity = dwunw_hash(dwunw_hash(identity, pending.slot - walk->initial_sp), pending.return_address);
    }
    walk->identity = identity;
}

/*
 * For a walk that met an address in no published mapping. User space may find code there: code that came after the map
 * was published, while as many pages went. So the address is part of the identity. If its memory can be read, any other
 * word may be such code, too.
 */
static __always_inline void dwunw_identify_unpublished(struct dwunw_walk *walk) {
    __u8 byte;

    walk->identity = dwunw_hash(walk->identity, walk->pc);
    if (bpf_probe_read_user(&byte, sizeof(byte), (void *)walk->pc))
        return;
    walk->any_code = 1;
    walk->code_filter |= ~1ull;
}

/* Sends registers (walk->regs) and a slice to user space, unless it already has this stack. Returns the id, or a
   reason, negated. */
__noinline __s64 dwunw_leave_to_user(void) {
    struct dwunw_walk *walk = dwunw_scratch(0);
    __u64 path, id, i;

    if (!walk)
        return -DWUNW_BPF_NO_SCRATCH;
    path = dwunw_hash(walk->hash, walk->reason);
    /* Each plugin that the walk could not enter is a path of its own. */
    if (walk->lasting)
        path = dwunw_hash(path, walk->pc);
    walk->slice_start = walk->initial_sp - DWUNW_BPF_RED_ZONE;
    walk->slice_size = dwunw_slice_length(walk->slice_start);
    walk->identity = path;
    /* Without a valid map, the identity needs the moment: the counts of changes and pages. */
    if (!walk->layout)
        walk->identity = dwunw_hash(dwunw_hash(path, walk->changes), walk->exec_pages);
    /* Any register may decide the next frame if it points into the slice. Its distance from SP counts. */
    for (i = 0; i < DWUNW_BPF_PT_REGS; i++)
        if (walk->regs[i] - walk->slice_start < walk->slice_size)
            walk->identity = dwunw_hash(dwunw_hash(walk->identity, i), walk->regs[i] - walk->initial_sp);
        /* If pc is not code, the walk in user space asks whether a register holds it: a call through that register. */
        else if (walk->reason == DWUNW_BPF_NO_MAPPING && walk->regs[i] == walk->pc)
            walk->identity = dwunw_hash(walk->identity, i);
    walk->any_code = 0;
    if (!walk->layout) {
        walk->any_code = 1;
        walk->code_filter = ~0ull;
    } else if (walk->reason == DWUNW_BPF_NO_MAPPING) {
        dwunw_identify_unpublished(walk);
    } else if (walk->incomplete) {
        walk->any_code = 1; /* the filter is still valid: it covers all mappings */
    }
    /* In two cases the words above do not identify the stack, and the time makes the id unique: SP is not aligned to
       words; or a signal interrupted a pc that is not code, and any saved register may hold that pc. */
    if (((walk->initial_sp | walk->sp) & 7) ||
        (walk->reason == DWUNW_BPF_NO_MAPPING && walk->exact && walk->stack.count))
        walk->identity = dwunw_hash(walk->identity, bpf_ktime_get_ns());
    dwunw_identify_pending(walk);
    dwunw_identify(walk, walk->slice_start & ~7ull, walk->slice_size);
    id = dwunw_id(walk->identity, DWUNW_BPF_ID_LEFT);
    if (bpf_map_lookup_elem(&dwunw_sent, &id)) {
        dwunw_count(DWUNW_BPF_DEDUPLICATED, 1);
        return id;
    }
    /* Without a valid map, a process has few paths, so each may have more stacks. */
    if (walk->reason != DWUNW_BPF_FORCED &&
        dwunw_path_is_full(path, walk->layout ? dwunw_settings.path_limit : 16 * dwunw_settings.path_limit))
        return -DWUNW_BPF_LIMITED;
    if (dwunw_send_slice(walk, id))
        return -DWUNW_BPF_DROPPED;
    dwunw_count(DWUNW_BPF_SENT_WALKS, 1);
    dwunw_note_sent(id);
    return id;
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

/* Copies the published map of a process into the walk: all of it if it is valid, else the lasting mappings. Returns 0;
   or the reason why the kernel cannot walk, and then walk->layout is 0. */
__noinline int dwunw_begin(__u32 tgid) {
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

/* Executes the return instruction that ctx stands at: pops the return address, or takes the pending return in its
   place. 1: the return address cannot be read; nothing changes. */
static __noinline int dwunw_return_now(struct dwunw_walk *walk) {
    __u64 outer;

    if (bpf_probe_read_user(&outer, sizeof(outer), (void *)walk->sp))
        return 1;
    walk->pending_begun = 0;
    walk->slot = walk->sp;
    if (outer != dwunw_return_trampoline())
        walk->pc = outer;
    else if (!dwunw_take_pending(walk))
        return 1;
    walk->sp += 8;
    return 0;
}

static __always_inline __s64 dwunw_walk_stack(struct dwunw_walk *walk, void *ctx, __u64 flags) {
    const __u64 *regs = ctx;
    __u32 tgid = walk->stack.head.tgid;
    __u64 pc;

    /* Look the number up once: it never changes, and the state belongs to this thread alone. */
    if (!tgid)
        walk->stack.head.tgid = tgid = dwunw_tgid();
    walk->stack.count = 0;
    walk->ended = walk->misses = walk->trampolines = 0;
    walk->reason = dwunw_begin(tgid);
    if (walk->reason > DWUNW_BPF_LAST_FALLBACK)
        return -(__s64)walk->reason;
    walk->pc = regs[16];
    walk->sp = regs[19];
    if (flags & DWUNW_AT_RETURN_INSTRUCTION)
        dwunw_return_now(walk);
    pc = walk->pc;
    walk->initial_sp = walk->sp;
    walk->fp = regs[4];
    walk->hash = dwunw_hash(walk->layout ^ dwunw_settings.seed, tgid);
    /* A stack that is forced has no path limit, also if the map has changed. */
    if (flags & DWUNW_USER_ONLY)
        walk->reason = DWUNW_BPF_FORCED;
    if (!walk->reason) {
        walk->exact = walk->fp_known = 1;
        walk->repaired = walk->pending_begun = 0;
        walk->last_cfa = walk->slot = 0;
        walk->window_size = 0;
        walk->mapping.start = walk->mapping.end = 0;
        dwunw_walk_frames(walk);
        if (!walk->ended)
            walk->reason = DWUNW_BPF_FRAME_LIMIT;
        dwunw_count(DWUNW_BPF_FRAMES, walk->stack.count);
        if (walk->misses)
            dwunw_count(DWUNW_BPF_CACHE_MISSES, walk->misses);
        if (walk->trampolines)
            dwunw_count(DWUNW_BPF_TRAMPOLINE_FRAMES, walk->trampolines);
        if (!walk->reason) {
            dwunw_count(DWUNW_BPF_COMPLETE, 1);
            return dwunw_complete(walk);
        }
    } else {
        walk->hash = dwunw_hash(walk->hash, walk->pc);
    }
    /* User space will walk with more than the lasting mappings, whose layout is then not the stack's. */
    if (walk->lasting)
        walk->layout = 0;
    /* Counts why the stack goes to user space, also if it is not sent in the end. */
    dwunw_count(walk->reason, 1);
    if (flags & DWUNW_KERNEL_ONLY)
        return -(__s64)DWUNW_BPF_KERNEL_ONLY_END;
    /* The verifier allows no loop over a ctx. */
    if (bpf_probe_read_kernel(walk->regs, sizeof(walk->regs), ctx))
        return -DWUNW_BPF_NO_SCRATCH;
    walk->regs[16] = pc;
    walk->regs[19] = walk->initial_sp;
    return dwunw_leave_to_user();
}

/*
 * Walks the user-space stack of the current thread, beginning with the registers in ctx. Returns a positive id, or a
 * negated reason (DWUNW_BPF_REASON_LIST). After the next dwunw_bpf_poll, dwunw_bpf_lookup gives the id's frames.
 */
static __noinline __attribute__((unused)) __s64 dwunw_get_stackid(void *ctx, __u64 flags) {
    const __u64 *regs = ctx;
    struct dwunw_walk *walk;
    __s64 id;

    dwunw_count(DWUNW_BPF_WALKS, 1);
    if ((regs[17] & 0xffff) != 0x33) { /* the code segment of 64-bit user code */
        id = -DWUNW_BPF_NOT_USER;
    } else if (!(walk = dwunw_scratch(1))) {
        id = -DWUNW_BPF_NO_SCRATCH;
    } else if (walk->busy) {
        id = -DWUNW_BPF_BUSY;
    } else {
        walk->busy = 1;
        id = dwunw_walk_stack(walk, ctx, flags);
        walk->busy = 0;
    }
    if (id < 0)
        dwunw_count(-id, 1);
    return id;
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
int dwunw_on_linker(void *ctx) {
    (void)ctx;
    dwunw_map_changed(1, 0);
    return 0;
}

SEC("raw_tp/sched_process_exec")
int dwunw_on_exec(void *ctx) {
    (void)ctx;
    dwunw_map_changed(DWUNW_BPF_HIDING_CHANGES, 1);
    return 0;
}

SEC("raw_tp/sched_process_exit")
int dwunw_on_exit(void *ctx) {
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

#endif /* DWUNW_BPF_DWUNW_BPF_H */
