/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Stacks that user space walks: registers and a slice of the stack, sent once for all stacks that have the same frames.
 * dwunw_identify says how two slices are known to have the same frames.
 */
#ifndef DWUNW_BPF_DETAIL_SLICES_H
#define DWUNW_BPF_DETAIL_SLICES_H

#include "events.bpf.h"
#include "step.bpf.h"

/* Whether a word may be a return address. Only the published mappings can show that it is not. */
DWUNW_SHARED __noinline int dwunw_may_be_code(__u64 address) {
    struct dwunw_walk *walk = dwunw_scratch(0);

    if (!walk || walk->any_code)
        return 1;
    return dwunw_mapping_at(walk->first, walk->count, address - 1) ? 1 : 0;
}

/* Adds the words of the window to walk->identity. */
DWUNW_SHARED __noinline int dwunw_identify_window(__u64 address) {
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
DWUNW_SHARED __noinline __s64 dwunw_leave_to_user(void) {
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

#endif /* DWUNW_BPF_DETAIL_SLICES_H */
