/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: the kernel's frame-pointer stacks, as far as they are certain */
#ifndef __DWUNW_KERNEL_STACKS_H
#define __DWUNW_KERNEL_STACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dwunw/bpf_stacks.h>

struct dwunw_kernel_stack;

/* What has been found out about the stacks of a BPF_MAP_TYPE_STACK_TRACE, by their ids. */
struct dwunw_kernel_stacks {
	struct dwunw_bpf *bpf;
	int pid;
	/* Of blocks that were allocated within this time, addresses meant what they mean now. `until_ns` is the user's. */
	uint64_t since_ns, until_ns;
	struct dwunw_kernel_stack **stacks; /* an open hash table of a power of two */
	size_t count, capacity;
};

/*
 * Looks whether the process's map has changed; to be called often, and at the beginning of each report. False: it
 * cannot be said, as of a process that has ended.
 */
bool dwunw_kernel_stacks__look(struct dwunw_kernel_stacks *stacks);
void dwunw_kernel_stacks__free(struct dwunw_kernel_stacks *stacks);

/*
 * The frames of a stack that was taken at `taken_ns`: those that are certain, if there are two or more of them. 0: the
 * stack must not be shown. `ips`, `max_ips`: room for its addresses.
 */
size_t dwunw_kernel_stacks__get(struct dwunw_kernel_stacks *stacks, int map_fd, int stack_id, uint64_t taken_ns,
				uint64_t *ips, size_t max_ips, const struct dwunw_frame **frames);

/* Those of one that was shown in this report. */
size_t dwunw_kernel_stacks__known(const struct dwunw_kernel_stacks *stacks, int stack_id, const struct dwunw_frame **frames);

#endif /* __DWUNW_KERNEL_STACKS_H */
/* dwunw-added: end */
