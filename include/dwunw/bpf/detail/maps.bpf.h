/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The state of one walk, and the maps that the kernel and user space share. dwunw_bpf_start fills them.
 *
 *     dwunw_slots      tgid -> number ----+
 *     dwunw_processes  [number] <---------+   a process: its counts, and where its mappings are
 *     dwunw_mappings   [first .. first + count)   its executable mappings, ascending
 *     dwunw_pool       [mapping.table ..)     the table of the mapping's module (doc/table_format.md)
 *     dwunw_rules      pc -> rule             the rules found before
 *     dwunw_events     to user space: new stacks, slices, processes whose map has changed
 *
 * All are weak: two objects that include dwunw.bpf.h become one with `bpftool gen object`, and share them.
 */
#ifndef DWUNW_BPF_DETAIL_MAPS_H
#define DWUNW_BPF_DETAIL_MAPS_H

#include "basics.bpf.h"

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
} dwunw_pool SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 16384);
    __type(key, __u32);
    __type(value, struct dwunw_mapping);
} dwunw_mappings SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, struct dwunw_process_slot);
} dwunw_processes SEC(".maps") DWUNW_SHARED;

/* tgid → index in dwunw_processes */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, __u32);
} dwunw_slots SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1 << DWUNW_BPF_CACHE_BITS);
    __type(key, __u32);
    __type(value, struct dwunw_cached_rule);
} dwunw_rules SEC(".maps") DWUNW_SHARED;

/* Ids that were sent to user space. An id that falls out of the map is sent again. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 32768);
    __type(key, __u64);
    __type(value, __u32);
} dwunw_sent SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, struct dwunw_path);
} dwunw_paths SEC(".maps") DWUNW_SHARED;

/* Unknown processes that were reported to user space. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, __u32);
} dwunw_reported SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct dwunw_walk);
} dwunw_tasks SEC(".maps") DWUNW_SHARED;

/* tid → walk, without task storage. dwunw_new_thread is the initial value of an entry. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_walk);
} dwunw_threads SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_walk);
} dwunw_new_thread SEC(".maps") DWUNW_SHARED;

struct dwunw_counts {
    __u64 n[DWUNW_BPF_COUNTERS];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct dwunw_counts);
} dwunw_counters SEC(".maps") DWUNW_SHARED;

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4 << 20);
} dwunw_events SEC(".maps") DWUNW_SHARED;

#ifndef DWUNW_BPF_USER
const volatile struct dwunw_settings dwunw_settings SEC(".rodata.dwunw") DWUNW_SHARED = {};
#endif

#endif /* DWUNW_BPF_DETAIL_MAPS_H */
