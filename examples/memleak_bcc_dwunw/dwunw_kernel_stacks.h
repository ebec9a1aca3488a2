/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: the kernel's frame-pointer stacks, as far as they are certain */
#ifndef __DWUNW_KERNEL_STACKS_H
#define __DWUNW_KERNEL_STACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dwunw/bpf_stacks.h>

struct dwunw_kernel_stack;

/* The certain part of the stacks of a BPF_MAP_TYPE_STACK_TRACE, by stack id. */
struct dwunw_kernel_stacks {
	struct dwunw_bpf *bpf;
	int pid;
	/* Addresses of blocks allocated within this time still have the same meaning. The caller sets `until_ns`. */
	uint64_t since_ns, until_ns;
	struct dwunw_kernel_stack **stacks; /* an open hash table; its size is a power of two */
	size_t count, capacity;
};

/*
 * Checks whether the process's map has changed. Call it often, and at the beginning of each report. False: it is not
 * known, for example because the process has ended.
 */
bool dwunw_kernel_stacks__look(struct dwunw_kernel_stacks *stacks);
void dwunw_kernel_stacks__free(struct dwunw_kernel_stacks *stacks);

/*
 * The certain frames of a stack that was taken at `taken_ns`, if there are at least two. Returns their number; 0: the
 * stack must not be shown. `ips`, `max_ips`: room for its addresses.
 */
size_t dwunw_kernel_stacks__get(struct dwunw_kernel_stacks *stacks, int map_fd, int stack_id, uint64_t taken_ns,
				uint64_t *ips, size_t max_ips, const struct dwunw_frame **frames);

/* The frames of a stack that was shown in this report. */
size_t dwunw_kernel_stacks__known(const struct dwunw_kernel_stacks *stacks, int stack_id, const struct dwunw_frame **frames);

#endif /* __DWUNW_KERNEL_STACKS_H */
/* dwunw-added: end */
