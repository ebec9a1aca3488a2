// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * The kernel half of `dwunw memleak`: keeps the outstanding blocks, each with the stack of its allocation.
 *
 * One program serves all functions. Its probe's cookie says what the function does (memleak/kernel_types.h):
 *
 *     calloc(n, size)         ALLOCATE, size: argument 2, factor: argument 1
 *     free(p)                 FREE, pointer: argument 1
 *     realloc(p, size)        REALLOCATE, size: argument 2, pointer: argument 1
 *
 * Only the outermost call counts (dwunw_calls.bpf.h). So a malloc that maps memory is one block, and so is a `new` that
 * calls malloc, and an arena or a thread's stack is none of the program's blocks.
 *
 * realloc(p, n). p stays in the tables, marked, until the call returns. If the call fails, the mark goes away. If it
 * succeeds, p is taken out if it still has the mark: another thread may have got its address in the meantime.
 *
 * Mappings are not in the tables, because munmap and mmap can end parts of them. They go to user space as events
 * (tools/dwunw/memleak/mappings.h).
 *
 * Proved by tests/integration/memleak_command_test.py.
 */
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <dwunw/bpf/dwunw.bpf.h>

#include <dwunw/bpf/dwunw_calls.bpf.h>

#include "memleak/kernel_types.h"

typedef _Bool bool;
#define true 1
#define false 0

#include "blocks.bpf.h"
#include "processes.bpf.h"
#include "sampling.bpf.h"

const volatile __u64 memleak_min_size = 0;
const volatile __u64 memleak_max_size = -1;
const volatile __u32 memleak_sample_rate = 1;
const volatile __u64 memleak_sample_bytes = 0;
const volatile __u32 memleak_logarithms[MEMLEAK_LOG_SIZE] = {};
/* Every allocation is recorded, so a free of an unknown block is one of a block from before the attach. */
const volatile bool memleak_sees_all = true;

/* Of the allocations that would be recorded, one in 1 << memleak_sampling_shift is: --max-overhead. */
__u32 memleak_sampling_shift = 0;

extern bool bpf_session_is_return(void) __ksym __weak;

/* A ctx is read at constant offsets only: each register is read by itself, and then chosen. */
static __always_inline __u64 memleak_argument(struct pt_regs *ctx, __u32 number) {
    __u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx);

    barrier_var(first);
    barrier_var(second);
    barrier_var(third);
    switch (number) {
    case 1:
        return first;
    case 2:
        return second;
    case 3:
        return third;
    default:
        return 0;
    }
}

static __always_inline __u64 memleak_result(struct pt_regs *ctx, __u64 cookie) {
    __u64 result = PT_REGS_RC(ctx), first = PT_REGS_PARM1(ctx);

    barrier_var(result);
    barrier_var(first);
    /* 1 << 63: DWUNW_ATTACH_COOKIE_RESULT_IN_RDI */
    return (cookie & MEMLEAK_BY_INSTRUCTION) && cookie >> 63 ? first : result;
}

static __always_inline int memleak_is_wanted(__u64 size) {
    const __u32 shift = memleak_sampling_shift & 31;

    if (size < memleak_min_size || size > memleak_max_size)
        return 0;
    if (shift && bpf_get_prandom_u32() >> (32 - shift))
        return 0;
    if (memleak_sample_bytes)
        return memleak_has_point(bpf_get_prandom_u32(), size, memleak_sample_bytes, memleak_logarithms);
    return memleak_sample_rate <= 1 || bpf_get_prandom_u32() % memleak_sample_rate == 0;
}

static __always_inline __u64 memleak_key(__u64 address, __u32 process) {
    return address << MEMLEAK_PROCESS_BITS | process;
}

/* A block that new[] allocated and free ends, and the like. */
static __always_inline void memleak_send_mismatch(void *ctx, __u64 address, __u32 process,
                                                  const struct memleak_block *block, __u64 how) {
    const __s64 stack = dwunw_get_stackid(ctx, 0);
    struct memleak_event *event;

    memleak_count(MEMLEAK_MISMATCHES, 1);
    event = memleak_reserve(MEMLEAK_EVENT_MISMATCH, MEMLEAK_EVENTS_LOST);
    if (!event)
        return;
    event->process = process;
    event->address = address;
    event->length = block->size;
    event->stack = block->stack;
    event->detail = how;
    event->old = stack;
    bpf_ringbuf_submit(event, 0);
}

/* glibc keeps a chunk's size, with three flags, in the word before the block. A chunk of its own mapping has two words
   of overhead, others one. */
#define MEMLEAK_CHUNK_FLAGS 7
#define MEMLEAK_CHUNK_MAPPED 2

/* A free of a block that is not in the tables. */
static __noinline int memleak_free_unknown(__u64 address, __u64 cookie, __u32 flags) {
    struct dwunw_call *call;
    __u64 word;

    if (!memleak_sees_all || memleak_sampling_shift || !(flags & MEMLEAK_PROCESS_ATTACHED))
        return 0;
    /* Within an allocator's call the block is not the program's own. */
    call = dwunw_call_of_thread(0);
    if (call && call->sp)
        return 0;
    memleak_count(MEMLEAK_OLD_FREES, 1);
    if (!(cookie & MEMLEAK_GLIBC_HEADER) || bpf_probe_read_user(&word, sizeof(word), (void *)(address - 8)))
        return 0;
    memleak_count(MEMLEAK_OLD_FREES_SIZED, 1);
    memleak_count(MEMLEAK_OLD_FREED_BYTES,
                  (word & ~(__u64)MEMLEAK_CHUNK_FLAGS) - (word & MEMLEAK_CHUNK_MAPPED ? 2 : 1) * sizeof(word));
    return 0;
}

static __always_inline void memleak_free(void *ctx, __u64 address, __u64 cookie,
                                         const struct memleak_process *process) {
    struct memleak_block block;
    __u64 kind;

    if (!address)
        return;
    if (!memleak_take(memleak_key(address, process->number), &block)) {
        memleak_free_unknown(address, cookie, process->flags);
        return;
    }
    memleak_count(MEMLEAK_FREES, 1);
    kind = block.size >> MEMLEAK_KIND_SHIFT & MEMLEAK_KIND_MASK;
    /* A block of malloc may be one of a new that called malloc. */
    if (kind != MEMLEAK_HEAP && MEMLEAK_KIND(cookie) < MEMLEAK_KINDS && MEMLEAK_KIND(cookie) != kind)
        memleak_send_mismatch(ctx, address, process->number, &block, MEMLEAK_KIND(cookie));
}

/* Sets or removes the mark of a block whose realloc begins or fails. */
static __noinline int memleak_mark(__u64 key, int moving) {
    const __u64 place = memleak_find(key);
    struct memleak_bucket *bucket = place ? memleak_bucket_of_place(place) : 0;
    struct memleak_block *block;

    if (!bucket)
        return 0;
    block = &bucket->blocks[MEMLEAK_PLACE_SLOT(place)];
    if (moving)
        block->size |= MEMLEAK_MOVING;
    else
        block->size &= ~MEMLEAK_MOVING;
    return 1;
}

/* Takes the old block of a realloc that has succeeded. `old`: its address, with MEMLEAK_MOVING if it was known. A
   realloc may have called free for it: then it is gone already. */
static __always_inline void memleak_end_old(__u64 old, __u64 cookie, const struct memleak_process *process) {
    const __u64 address = old & ~MEMLEAK_MOVING;
    const __u64 key = memleak_key(address, process->number), place = memleak_find(key);
    struct memleak_bucket *bucket = place ? memleak_bucket_of_place(place) : 0;
    struct memleak_block block;

    if (!bucket) {
        if (!(old & MEMLEAK_MOVING))
            memleak_free_unknown(address, cookie, process->flags);
        return;
    }
    if (!(bucket->blocks[MEMLEAK_PLACE_SLOT(place)].size & MEMLEAK_MOVING))
        return;
    if (memleak_take(key, &block))
        memleak_count(MEMLEAK_FREES, 1);
}

/* A flag of mremap: the old mapping stays. */
#define MEMLEAK_DONTUNMAP 4

static __always_inline __u64 memleak_call_flags(__u64 cookie) {
    return cookie & MEMLEAK_BY_INSTRUCTION ? DWUNW_CALL_BY_INSTRUCTION : 0;
}

static __always_inline void memleak_send_unmapping(__u64 address, __u64 length, __u32 process) {
    struct memleak_event *event = memleak_reserve(MEMLEAK_EVENT_UNMAPPING, MEMLEAK_EVENTS_LOST);

    if (!event)
        return;
    event->process = process;
    event->address = address;
    event->length = length;
    bpf_ringbuf_submit(event, 0);
}

/* At a function's entry. 1: its return need not be seen. */
static __always_inline int memleak_enter(struct pt_regs *ctx) {
    const __u64 cookie = bpf_get_attach_cookie(ctx);
    const __u32 operation = MEMLEAK_OPERATION(cookie);
    __u64 size = memleak_argument(ctx, MEMLEAK_SIZE_ARGUMENT(cookie));
    const __u64 pointer = memleak_argument(ctx, MEMLEAK_POINTER_ARGUMENT(cookie));
    __u64 other = pointer, old_length = 0;
    struct memleak_process *process;
    struct dwunw_call *call;

    process = memleak_current();
    if (!process)
        return 1;
    memleak_count(MEMLEAK_CALLS, 1);
    switch (operation) {
    case MEMLEAK_JUMP:
        dwunw_call_jump(ctx);
        return 1;
    case MEMLEAK_FREE:
        memleak_free(ctx, pointer, cookie, process);
        return 1;
    case MEMLEAK_UNMAP:
        memleak_send_unmapping(pointer, size, process->number);
        break;
    case MEMLEAK_MAP:
        other = PT_REGS_PARM4(ctx); /* flags */
        break;
    case MEMLEAK_REMAP:
        old_length = PT_REGS_PARM4(ctx) & MEMLEAK_DONTUNMAP ? 0 : PT_REGS_PARM2(ctx);
        /* Old and new length, in pages: 2³² of them are 16 TiB. */
        size = old_length / DWUNW_BPF_PAGE | (size + DWUNW_BPF_PAGE - 1) / DWUNW_BPF_PAGE << 32;
        break;
    default:
        if (MEMLEAK_FACTOR_ARGUMENT(cookie))
            size *= memleak_argument(ctx, MEMLEAK_FACTOR_ARGUMENT(cookie));
        /* The end of a realloc's old block must be seen, whether the new one is recorded or not. */
        if (operation != MEMLEAK_REALLOCATE && !memleak_is_wanted(size))
            return 1;
    }
    call = dwunw_call_begin(ctx, memleak_call_flags(cookie));
    if (!call)
        return 1;
    call->values[0] = size;
    call->values[1] = other;
    /* As munmap: another thread's mmap may get the old address before this call returns. */
    if (old_length)
        memleak_send_unmapping(pointer, old_length, process->number);
    if (operation == MEMLEAK_REALLOCATE && pointer && memleak_mark(memleak_key(pointer, process->number), 1))
        call->values[1] |= MEMLEAK_MOVING;
    return 0;
}

static __always_inline __s64 memleak_stack(struct pt_regs *ctx, __u64 cookie) {
    return dwunw_get_stackid(ctx, cookie & MEMLEAK_BY_INSTRUCTION ? DWUNW_AT_RETURN_INSTRUCTION : 0);
}

static __always_inline void memleak_record(struct pt_regs *ctx, __u64 cookie, __u64 address, __u64 size,
                                           __u32 process) {
    struct memleak_block block;
    __u64 place;

    if (address >> MEMLEAK_ADDRESS_BITS) {
        memleak_count(MEMLEAK_ADDRESSES_LOST, 1);
        return;
    }
    block.size = (size & MEMLEAK_SIZE_MASK) | MEMLEAK_KIND(cookie) << MEMLEAK_KIND_SHIFT |
                 (__u64)(memleak_sampling_shift & MEMLEAK_SHIFT_MASK) << MEMLEAK_SHIFT_SHIFT;
    block.stack = memleak_stack(ctx, cookie);
    block.born = bpf_ktime_get_ns();
    memleak_count(MEMLEAK_ALLOCATIONS, 1);
    place = memleak_store(memleak_key(address, process), &block);
    /* Slots are taken from the last one down. Three quarters of this bucket of the last table are taken, so of the
       others, too: two choices keep buckets even. */
    if (memleak_growth_asked < memleak_table_count &&
        (!place ||
         (MEMLEAK_PLACE_TABLE(place) + 1 == memleak_table_count && MEMLEAK_PLACE_SLOT(place) < MEMLEAK_SLOTS / 4))) {
        memleak_growth_asked = memleak_table_count;
        memleak_send_process(MEMLEAK_EVENT_GROW, process, 0);
    }
}

static __always_inline void memleak_map(struct pt_regs *ctx, __u64 cookie, __u32 operation, __u64 result,
                                        const struct dwunw_call *call, __u32 process) {
    struct memleak_event *event;
    __s64 stack;

    if (operation == MEMLEAK_UNMAP) {
        if (result)
            memleak_send_process(MEMLEAK_EVENT_UNMAP_FAILED, process, 0);
        return;
    }
    if (!result || result == (__u64)-1) {
        if (operation == MEMLEAK_REMAP)
            memleak_send_process(MEMLEAK_EVENT_UNMAP_FAILED, process, 0);
        return;
    }
    stack = memleak_stack(ctx, cookie);
    event =
        memleak_reserve(operation == MEMLEAK_MAP ? MEMLEAK_EVENT_MAPPED : MEMLEAK_EVENT_REMAPPED, MEMLEAK_EVENTS_LOST);
    if (!event)
        return;
    event->process = process;
    event->address = result;
    event->stack = stack;
    if (operation == MEMLEAK_MAP) {
        event->length = call->values[0];
        event->detail = call->values[1];
    } else {
        event->length = (call->values[0] >> 32) * DWUNW_BPF_PAGE;
        event->detail = (call->values[0] & 0xffffffff) * DWUNW_BPF_PAGE;
        event->old = call->values[1];
    }
    bpf_ringbuf_submit(event, 0);
}

/* At a function's return. */
static __always_inline int memleak_leave(struct pt_regs *ctx) {
    const __u64 cookie = bpf_get_attach_cookie(ctx);
    const __u32 operation = MEMLEAK_OPERATION(cookie);
    __u64 result = memleak_result(ctx, cookie);
    struct memleak_process *process;
    struct dwunw_call call;
    __u64 size;

    if (!dwunw_call_end(ctx, &call, memleak_call_flags(cookie)))
        return 0;
    process = memleak_current();
    if (!process)
        return 0;
    size = call.values[0];
    switch (operation) {
    case MEMLEAK_MAP:
    case MEMLEAK_UNMAP:
    case MEMLEAK_REMAP:
        memleak_map(ctx, cookie, operation, result, &call, process->number);
        return 0;
    case MEMLEAK_ALLOCATE_INTO:
        if ((int)result || bpf_probe_read_user(&result, sizeof(result), (void *)call.values[1]))
            return 0;
        break;
    case MEMLEAK_REALLOCATE:
        if (!call.values[1])
            break;
        if (!result && size) {
            memleak_mark(memleak_key(call.values[1] & ~MEMLEAK_MOVING, process->number), 0);
            return 0;
        }
        memleak_end_old(call.values[1], cookie, process);
        break;
    }
    if (!result)
        return 0;
    if (operation == MEMLEAK_REALLOCATE && !memleak_is_wanted(size))
        return 0;
    memleak_record(ctx, cookie, result, size, process->number);
    return 0;
}

SEC("uprobe")
int memleak_session(struct pt_regs *ctx) { return bpf_session_is_return() ? memleak_leave(ctx) : memleak_enter(ctx); }

SEC("uprobe")
int memleak_entry(struct pt_regs *ctx) {
    memleak_enter(ctx);
    return 0;
}

SEC("uretprobe")
int memleak_exit(struct pt_regs *ctx) { return memleak_leave(ctx); }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
