// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * What the header takes from libbpf's headers and from the kernel, in a few lines: a map is told by its address.
 */
#include "bpf_user_walk.h"

#include <linux/bpf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DWUNW_BPF_USER
#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, value) __typeof__(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#undef __noinline
#define __noinline __attribute__((noinline))

struct dwunw_walk;
struct dwunw_call;
static _Thread_local struct bpf_user_world *world;

#define dwunw_settings (world->settings)

static __u64 dwunw_exec_pages(void) { return world->exec_pages; }
static __u64 dwunw_return_trampoline(void) { return world->trampoline; }
static __u64 dwunw_main_stack_end(void) { return world->stack_end; }
static __u64 dwunw_thread_block(void) { return 0; }
/* A pending return is told by its number, counted from 1. */
static __u64 dwunw_first_pending(void) { return world->pending_count != 0; }
static __u64 dwunw_read_pending(__u64 instance, struct dwunw_bpf_pending *out) {
    *out = world->pending[instance - 1];
    return instance < world->pending_count ? instance + 1 : 0;
}
static struct dwunw_walk *dwunw_scratch(__u32 create);
static struct dwunw_call *dwunw_call_of_thread(__u32 create);
static void dwunw_forget_call(struct dwunw_call *call);

static void *bpf_map_lookup_elem(void *map, const void *key);
static long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags);
static void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags);
static void bpf_ringbuf_submit(void *data, __u64 flags);
static void bpf_ringbuf_discard(void *data, __u64 flags);
static long bpf_ringbuf_output(void *map, void *data, __u64 size, __u64 flags);

static long bpf_probe_read_user(void *to, __u32 size, const void *from) {
    return world->read(world->arg, (uint64_t)from, to, size) ? 0 : -1;
}
static long bpf_probe_read_kernel(void *to, __u32 size, const void *from) {
    memcpy(to, from, size);
    return 0;
}
static __u64 bpf_get_current_pid_tgid(void) { return 1ull << 32 | 1; }
static __u32 dwunw_namespace_tgid(void) { return world->namespace_tgid; }
static __u64 bpf_ktime_get_ns(void) {
    static _Thread_local __u64 now;

    return ++now;
}
static long bpf_loop(__u32 count, void *callback, void *arg, __u64 flags) {
    long (*step)(__u32, void *) = callback;
    __u32 i = 0;

    (void)flags;
    while (i < count && !step(i, arg))
        i++;
    return i;
}

#pragma GCC diagnostic ignored "-Warray-bounds" /* a key is as large as its map says */
/* Names of maps are those of types in C, too; and their members are never read. */
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wmissing-declarations"
#pragma GCC diagnostic ignored "-Wint-to-pointer-cast"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <dwunw/bpf/dwunw.bpf.h>
#include <dwunw/bpf/dwunw_calls.bpf.h>

static _Thread_local struct dwunw_walk scratch;

static struct dwunw_walk *dwunw_scratch(__u32 create) {
    (void)create;
    return &scratch;
}

static _Thread_local struct dwunw_call call_under_way;

static struct dwunw_call *dwunw_call_of_thread(__u32 create) {
    (void)create;
    return world->no_calls ? NULL : &call_under_way;
}

static void dwunw_forget_call(struct dwunw_call *call) { call->sp = 0; }

static void *bpf_map_lookup_elem(void *map, const void *key) {
    static const __u32 slot;
    const __u32 index = *(const __u32 *)key;
    size_t i;

    if (map == &dwunw_pool)
        return index < world->pool_cells ? (void *)&world->pool[index] : NULL;
    if (map == &dwunw_mappings)
        return index < world->mapping_count ? (void *)&world->mappings[index] : NULL;
    if (map == &dwunw_rules)
        return index < 1u << DWUNW_BPF_CACHE_BITS ? &world->rules[index] : NULL;
    if (map == &dwunw_slots)
        return world->process ? (void *)&slot : NULL;
    if (map == &dwunw_processes)
        return world->process;
    if (map == &dwunw_counters)
        return world->counters;
    if (map == &dwunw_sent)
        for (i = 0; i < world->sent_count; i++)
            if (world->sent[i] == *(const uint64_t *)key)
                return &world->sent[i];
    return NULL;
}

static long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags) {
    (void)value;
    (void)flags;
    if (map != &dwunw_sent)
        return 0;
    if (world->sent_count == sizeof(world->sent) / sizeof(world->sent[0]))
        return -1;
    world->sent[world->sent_count++] = *(const uint64_t *)key;
    return 0;
}

static void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags) {
    (void)map;
    (void)flags;
    return world->ring_is_full ? NULL : malloc(size);
}

static void bpf_ringbuf_submit(void *data, __u64 flags) {
    const struct dwunw_walk_event *event = data;

    (void)flags;
    world->walk_reason = event->reason;
    world->walk_layout = event->layout;
    world->walks_sent++;
    free(data);
}

static void bpf_ringbuf_discard(void *data, __u64 flags) {
    (void)flags;
    free(data);
}

static long bpf_ringbuf_output(void *map, void *data, __u64 size, __u64 flags) {
    (void)map;
    (void)flags;
    if (world->ring_is_full)
        return -1;
    if (((const struct dwunw_bpf_event *)data)->type == DWUNW_BPF_EVENT_STACK) {
        memcpy(&world->stack, data, size);
        world->stacks_sent++;
    } else {
        world->processes_sent++;
    }
    return 0;
}

int64_t bpf_user_get_stackid(struct bpf_user_world *in, const uint64_t pt_regs[DWUNW_BPF_PT_REGS], uint64_t flags) {
    int64_t id;

    world = in;
    id = dwunw_get_stackid((void *)pt_regs, flags);
    world->reason = scratch.reason;
    world = NULL;
    return id;
}

int bpf_user_call_begin(struct bpf_user_world *in, uint64_t sp, uint64_t value) {
    const uint64_t pt_regs[DWUNW_BPF_PT_REGS] = {[19] = sp};
    struct dwunw_call *call;

    world = in;
    call = dwunw_call_begin((void *)pt_regs);
    world = NULL;
    if (call)
        call->values[0] = value;
    return call != NULL;
}

uint64_t bpf_user_call_end(struct bpf_user_world *in, uint64_t sp) {
    const uint64_t pt_regs[DWUNW_BPF_PT_REGS] = {[19] = sp};
    struct dwunw_call call;
    int ended;

    world = in;
    ended = dwunw_call_end((void *)pt_regs, &call);
    world = NULL;
    return ended ? call.values[0] : 0;
}

void bpf_user_forget_calls(void) { call_under_way.sp = 0; }
