// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * The kernel side. When malloc returns, sends the block, the registers and the top of the stack in one record, which is
 * sent or lost as a whole. The registers are then those of malloc's caller, so the caller is frame 0.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h> /* struct pt_regs in user space's form, which a uprobe gets */
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "memleak.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* tid -> the size that it asked malloc for, until malloc returns */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, uint32_t);
	__type(value, uint64_t);
} sizes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024 * 1024);
} events SEC(".maps");

uint64_t lost; /* records that found no room: the report says so, because after a lost free a block looks leaked */

SEC("uprobe")
int BPF_KPROBE(malloc_enter, uint64_t size)
{
	uint32_t tid = bpf_get_current_pid_tgid();

	if (bpf_map_update_elem(&sizes, &tid, &size, BPF_ANY))
		__sync_fetch_and_add(&lost, 1);
	return 0;
}

/* The slice ends at a page's end. A page that cannot be read, as behind the stack's end, only makes it shorter. */
static void read_stack(struct memleak_event *event, uint64_t start)
{
	uint32_t first = PAGE - (start & (PAGE - 1)), i;
	uint8_t *rest = event->stack + first;

	event->stack_addr = start;
	event->stack_size = 0;
	if (bpf_probe_read_user(event->stack, first, (void *)start))
		return;
	for (i = 0; i < SLICE_PAGES - 1; i++)
		if (bpf_probe_read_user(rest + i * PAGE, PAGE, (void *)(start + first + i * PAGE)))
			break;
	event->stack_size = first + i * PAGE;
}

SEC("uretprobe")
int BPF_KRETPROBE(malloc_exit, uint64_t address)
{
	uint32_t tid = bpf_get_current_pid_tgid();
	uint64_t *size = bpf_map_lookup_elem(&sizes, &tid);
	struct memleak_event *event;

	if (!size) /* the call began before the probes were attached */
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->address = address;
		event->size = *size;
		__builtin_memcpy(event->pt_regs, ctx, sizeof(event->pt_regs));
		read_stack(event, PT_REGS_SP(ctx) - DWUNW_RED_ZONE); /* rules may read below SP */
		bpf_ringbuf_submit(event, 0);
	} else {
		__sync_fetch_and_add(&lost, 1);
	}
	bpf_map_delete_elem(&sizes, &tid);
	return 0;
}

/* Also at realloc's entry. Sent before malloc can reuse the block: a free's record comes before the next malloc's. */
SEC("uprobe")
int BPF_KPROBE(free_enter, uint64_t address)
{
	if (address && bpf_ringbuf_output(&events, &address, sizeof(address), 0))
		__sync_fetch_and_add(&lost, 1);
	return 0;
}
