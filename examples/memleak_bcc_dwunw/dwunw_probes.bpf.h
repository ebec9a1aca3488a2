/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: where a block's stack comes from, and one program for all allocators */
/*
 * Included by memleak_dwunw.bpf.c. dwunw_take_stack replaces bpf_get_stackid. The programs at the end replace the pairs
 * NAME_enter and NAME_exit. One program serves all functions, so it is verified once; the probe's cookie says which
 * function it is. A call within an allocator's call is not recorded.
 */
#ifndef __DWUNW_PROBES_BPF_H
#define __DWUNW_PROBES_BPF_H

const volatile int dwunw_mode = DWUNW_MODE_OFF;
const volatile __u64 dwunw_walk_flags = 0; /* DWUNW_USER_ONLY: user space walks all stacks */

/* The probes of returns are on return instructions; there are no return probes. */
const volatile bool dwunw_returns_by_instruction = false;

/* Blocks for which the map of outstanding blocks had no room. */
__u64 dwunw_blocks_lost = 0;

/* The watched process, and the number of programs that it has executed after its first one. */
__u32 dwunw_target_tgid = 0;
__u32 dwunw_image = 0;

struct task_struct___memleak {
	int tgid;
	struct task_struct___memleak *real_parent;
	void *vfork_done;
} __attribute__((preserve_access_index));

extern bool bpf_session_is_return(void) __ksym __weak;

static bool is_wanted(size_t size);
static int record_alloc(void *ctx, __u64 address, __u64 size);
static int gen_free_enter(const void *address);

/* The child of a vfork allocates in its parent's memory, and its exec does not end that memory. */
static __always_inline void dwunw_note_target(void)
{
	struct task_struct___memleak *task = (void *)bpf_get_current_task();

	if (BPF_CORE_READ(task, vfork_done))
		task = BPF_CORE_READ(task, real_parent);
	dwunw_target_tgid = BPF_CORE_READ(task, tgid);
}

/* Kernel allocations, sent by tracepoints, have the mode off. */
static __always_inline void dwunw_take_stack(void *ctx, struct alloc_info *info)
{
	if (dwunw_mode == DWUNW_MODE_OFF) {
		info->stack_id = bpf_get_stackid(ctx, &stack_traces, stack_flags);
		return;
	}
	if (!dwunw_target_tgid)
		dwunw_note_target();
	info->dwunw_image = dwunw_image;
	info->stack_id = -ENODATA;
	info->dwunw_id = dwunw_get_stackid(
		ctx, dwunw_walk_flags | (dwunw_returns_by_instruction ? DWUNW_AT_RETURN_INSTRUCTION : 0));
	/* The kernel's own is for where this one is lost, be it on its way. At a return instruction it would begin in the
	   allocator and leave the caller out. */
	if (dwunw_mode == DWUNW_MODE_FALLBACK && !dwunw_returns_by_instruction &&
	    (info->dwunw_id < 0 || info->dwunw_id & DWUNW_BPF_ID_LEFT))
		info->stack_id = bpf_get_stackid(ctx, &stack_traces, stack_flags);
}

static __always_inline void dwunw_keep_block(__u64 address, const struct alloc_info *info)
{
	if (bpf_map_update_elem(&allocs, &address, info, BPF_ANY))
		__sync_fetch_and_add(&dwunw_blocks_lost, 1);
}

static __always_inline __u64 dwunw_call_flags(void)
{
	return dwunw_returns_by_instruction ? DWUNW_CALL_BY_INSTRUCTION : 0;
}

/* 1: the return need not be seen. */
static __always_inline int dwunw_enter(struct pt_regs *ctx)
{
	const __u64 function = bpf_get_attach_cookie(ctx);
	__u64 size = PT_REGS_PARM1(ctx), where = 0;
	struct dwunw_call *call;

	switch (function) {
	case DWUNW_LONGJMP:
		dwunw_call_jump(ctx);
		return 1;
	case DWUNW_FREE:
	case DWUNW_MUNMAP:
		gen_free_enter((const void *)PT_REGS_PARM1(ctx));
		return 1;
	case DWUNW_CALLOC:
		size *= PT_REGS_PARM2(ctx);
		break;
	case DWUNW_REALLOC:
		gen_free_enter((const void *)PT_REGS_PARM1(ctx));
		size = PT_REGS_PARM2(ctx);
		break;
	case DWUNW_MREMAP:
		gen_free_enter((const void *)PT_REGS_PARM1(ctx));
		size = PT_REGS_PARM3(ctx);
		break;
	case DWUNW_MMAP:
	case DWUNW_ALIGNED_ALLOC:
	case DWUNW_MEMALIGN:
		size = PT_REGS_PARM2(ctx);
		break;
	case DWUNW_POSIX_MEMALIGN:
		where = PT_REGS_PARM1(ctx);
		size = PT_REGS_PARM3(ctx);
		break;
	}
	if (!is_wanted(size))
		return 1;
	call = dwunw_call_begin(ctx, dwunw_call_flags());
	if (!call)
		return 1;
	call->values[0] = size;
	call->values[1] = where;

	if (trace_all)
		bpf_printk("alloc entered, size = %lu\n", size);
	return 0;
}

static __always_inline int dwunw_leave(struct pt_regs *ctx)
{
	__u64 address = PT_REGS_RC(ctx);
	struct dwunw_call call;

	if (dwunw_returns_by_instruction && bpf_get_attach_cookie(ctx) & DWUNW_RESULT_IN_PARM1)
		address = PT_REGS_PARM1(ctx);

	if (!dwunw_call_end(ctx, &call, dwunw_call_flags()))
		return 0;
	if (call.values[1] && ((int)address || bpf_probe_read_user(&address, sizeof(address), (void *)call.values[1])))
		return 0;
	return record_alloc(ctx, address, call.values[0]);
}

SEC("uprobe")
int dwunw_session(struct pt_regs *ctx)
{
	return bpf_session_is_return() ? dwunw_leave(ctx) : dwunw_enter(ctx);
}

SEC("uprobe")
int dwunw_entry(struct pt_regs *ctx)
{
	dwunw_enter(ctx);
	return 0;
}

SEC("uretprobe")
int dwunw_exit(struct pt_regs *ctx)
{
	return dwunw_leave(ctx);
}

/* The old program's memory is gone, with all its blocks. */
SEC("raw_tp/sched_process_exec")
int dwunw_on_new_image(void *ctx)
{
	(void)ctx;
	if (dwunw_target_tgid && bpf_get_current_pid_tgid() >> 32 == dwunw_target_tgid)
		__sync_fetch_and_add(&dwunw_image, 1);
	return 0;
}

#endif /* __DWUNW_PROBES_BPF_H */
/* dwunw-added: end */
