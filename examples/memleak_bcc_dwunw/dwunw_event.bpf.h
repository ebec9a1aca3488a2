/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: registers and stack bytes of one allocation into the ring buffer */
/*
 * Included by memleak_dwunw.bpf.c behind its maps and settings.
 *
 * Records come in size classes and are written in place, so that a shallow stack takes little room in the ring and no
 * scratch memory is shared: uprobe programs can be preempted, and another task's bytes in this one's slice would be
 * wrong frames.
 */
#ifndef __DWUNW_EVENT_BPF_H
#define __DWUNW_EVENT_BPF_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct return_instance {
	unsigned long stack;	      /* where the return address was */
	unsigned long orig_ret_vaddr; /* and what it was */
	struct return_instance *next;
};

struct uprobe_task {
	struct return_instance *return_instances;
};

struct mm_struct {
	unsigned long start_stack;
};

struct thread_struct {
	unsigned long fsbase;
};

struct task_struct {
	struct mm_struct *mm;
	struct uprobe_task *utask;
	struct thread_struct thread;
};

#pragma clang attribute pop

/* Uretprobes still pending have the trampoline's address in the stack: send what it replaced, and where. */
static __always_inline void dwunw_read_pending(struct dwunw_event *event, struct task_struct *task)
{
	struct return_instance *instance = BPF_CORE_READ(task, utask, return_instances);
	__u32 i;

	for (i = 0; i < DWUNW_PENDING_MAX && instance; i++) {
		event->pending[i].slot = BPF_CORE_READ(instance, stack);
		event->pending[i].return_address = BPF_CORE_READ(instance, orig_ret_vaddr);
		instance = BPF_CORE_READ(instance, next);
	}
	event->pending_count = i;
}

/*
 * How much stack there is from `start` on, as far as it can be told cheaply: a main thread's frames end where its
 * arguments begin, another thread's below its thread control block.
 */
static __always_inline __u64 dwunw_stack_available(struct task_struct *task, __u64 start)
{
	const __u64 arguments = BPF_CORE_READ(task, mm, start_stack);
	const __u64 control_block = BPF_CORE_READ(task, thread.fsbase);
	__u64 available = dwunw_stack_bytes;

	if (arguments > start + DWUNW_RED_ZONE && arguments - start < available)
		available = arguments - start;
	if (control_block > start + DWUNW_RED_ZONE && control_block - start < available)
		available = control_block - start;
	return available;
}

/*
 * Reads up to `length` of the `size` bytes at `stack`, `size` being a constant; returns how many. A read fails as a whole
 * when one of its pages is not there: then go page by page, and end before that one.
 */
static __always_inline __u64 dwunw_read_slice(__u8 *stack, const __u64 size, __u64 start, __u64 length)
{
	__u64 first = DWUNW_PAGE_SIZE - (start & (DWUNW_PAGE_SIZE - 1));
	__u64 done, i;

	/* What is compared has to be the register that is used: the verifier knows no other. */
	barrier_var(length);
	barrier_var(first);
	if (length > size)
		length = size;
	if (!bpf_probe_read_user(stack, length, (void *)start))
		return length;
	if (first >= length || first > size || bpf_probe_read_user(stack, first, (void *)start))
		return 0;
	done = first;
	for (i = 0; i + 1 < size / DWUNW_PAGE_SIZE; i++) {
		if (bpf_probe_read_user(stack + first + i * DWUNW_PAGE_SIZE, DWUNW_PAGE_SIZE,
					(void *)(start + first + i * DWUNW_PAGE_SIZE)))
			break;
		done += DWUNW_PAGE_SIZE;
	}
	return done < length ? done : length;
}

static __always_inline bool dwunw_send_class(const __u64 size, struct pt_regs *ctx, struct task_struct *task,
					     __u64 address, __u64 timestamp_ns, __u64 start, __u64 length)
{
	struct dwunw_event *event = bpf_ringbuf_reserve(&dwunw_events, sizeof(*event) + size, 0);

	if (!event)
		return false;
	event->address = address;
	event->timestamp_ns = timestamp_ns;
	__builtin_memcpy(event->pt_regs, ctx, sizeof(event->pt_regs));
	dwunw_read_pending(event, task);
	event->stack_addr = start;
	event->stack_len = dwunw_read_slice(event->stack, size, start, length);
	bpf_ringbuf_submit(event, 0);
	return true;
}

static __noinline int dwunw_send(struct pt_regs *ctx, __u64 address, __u64 timestamp_ns)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	const __u64 start = PT_REGS_SP(ctx) - DWUNW_RED_ZONE;
	const __u64 length = dwunw_stack_available(task, start);
	bool sent;

	if (length <= 1024)
		sent = dwunw_send_class(1024, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 2048)
		sent = dwunw_send_class(2048, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 4096)
		sent = dwunw_send_class(4096, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 8192)
		sent = dwunw_send_class(8192, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 16384)
		sent = dwunw_send_class(16384, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 32768)
		sent = dwunw_send_class(32768, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 65536)
		sent = dwunw_send_class(65536, ctx, task, address, timestamp_ns, start, length);
	else if (length <= 131072)
		sent = dwunw_send_class(131072, ctx, task, address, timestamp_ns, start, length);
	else
		sent = dwunw_send_class(262144, ctx, task, address, timestamp_ns, start, length);
	if (!sent)
		__sync_fetch_and_add(&dwunw_dropped, 1);
	return 0;
}

/* In place of bpf_get_stackid; kernel allocations (sent by tracepoints, without user registers) need no DWARF. */
static __always_inline int dwunw_get_stackid(void *ctx, __u64 address, const struct alloc_info *info)
{
	if (dwunw_mode != DWUNW_MODE_OFF)
		dwunw_send(ctx, address, info->timestamp_ns);
	if (dwunw_mode == DWUNW_MODE_FORCE)
		return -ENODATA;
	return bpf_get_stackid(ctx, &stack_traces, stack_flags);
}

#endif /* __DWUNW_EVENT_BPF_H */
/* dwunw-added: end */
