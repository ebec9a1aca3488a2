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
 * non-sleepable programs whose ctx is a struct pt_regs (uprobes, uretprobes, sessions). Include it after
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
 * dwunw_bpf_start attaches the programs in detail/validity.bpf.h. If DWUNW_BPF_OLD is defined, the object contains no
 * bpf_loop: Linux before 5.13 refuses an object that contains it, even if it is never called.
 *
 * Proved by tests/unit/bpf_walk_test, which compiles this file as user code and compares it with dwunw_capture, and by
 * tests/integration/bpf_walk_test.py in the kernel. detail/ has the parts: each opens with what it does.
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

#include "detail/arch.bpf.h"     /* registers in pt_regs, bytes of code */
#include "detail/slices.bpf.h"   /* stacks that user space walks */
#include "detail/step.bpf.h"     /* from a frame to its caller */
#include "detail/validity.bpf.h" /* whether the published map is valid */

/* Executes the return instruction that ctx stands at: pops the return address, or takes the pending return in its
   place. 1: the return address cannot be read; nothing changes. */
static __noinline int dwunw_return_now(struct dwunw_walk *walk) {
    __u64 outer;

    if (bpf_probe_read_user(&outer, sizeof(outer), (void *)walk->sp))
        return 1;
    walk->pending_begun = 0;
    walk->slot = walk->sp;
    if (outer != dwunw_return_trampoline())
        walk->pc = DWUNW_RETURN_ADDRESS(outer);
    else if (!dwunw_take_pending(walk))
        return 1;
    walk->sp += DWUNW_RETURN_POPS;
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
    walk->pc = regs[DWUNW_PT_PC];
    walk->sp = regs[DWUNW_PT_SP];
    if (flags & DWUNW_AT_RETURN_INSTRUCTION)
        dwunw_return_now(walk);
    pc = walk->pc;
    walk->initial_sp = walk->sp;
    walk->fp = regs[DWUNW_PT_FP];
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
    walk->regs[DWUNW_PT_PC] = pc;
    walk->regs[DWUNW_PT_SP] = walk->initial_sp;
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
    if (!DWUNW_IS_USER(regs)) {
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

#endif /* DWUNW_BPF_DWUNW_BPF_H */
