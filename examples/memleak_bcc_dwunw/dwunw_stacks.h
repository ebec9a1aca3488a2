/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what memleak's user half does with the stack ids of its kernel half */
/*
 * From stack ids to printed stacks. The id of a block's stack came into the map of outstanding blocks with the block.
 *
 * memleak's reports are by stack id. With dwunw, an id says where to look: the kernel's own are ints, dwunw's are at
 * least 1 << 32, and DWUNW_STACK_MISSING and what follows it stand for blocks that have none.
 */
#ifndef __DWUNW_STACKS_H
#define __DWUNW_STACKS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memleak_dwunw.h"

#define DWUNW_STACK_MISSING (1ull << 31)
#define DWUNW_STACK_LATER ((uint64_t)-1) /* a block that is younger than the report */

struct bpf_object;
struct dwunw_stacks;

struct dwunw_stacks_options {
	enum dwunw_mode mode;
	uint32_t stack_bytes; /* of each stack for the walk in user space */
	uint32_t ring_bytes;
};

/*
 * In this order: open, which sizes the maps; the object's load; start, which makes a process known.
 * 0, or a negative errno with *why saying what failed.
 */
int dwunw_stacks__open(struct dwunw_stacks **stacks, struct bpf_object *object, const struct dwunw_stacks_options *options,
		       const char **why);
int dwunw_stacks__start(struct dwunw_stacks *stacks, int pid, bool verbose, const char **why);
void dwunw_stacks__free(struct dwunw_stacks *stacks);

/* Takes in stacks until `interval` seconds are over, or *exiting is set by a signal. */
void dwunw_stacks__wait(struct dwunw_stacks *stacks, int interval, const volatile sig_atomic_t *exiting);

/* Takes in what has come until now, which is the report's time. To be called before the outstanding blocks are read. */
void dwunw_stacks__begin_report(struct dwunw_stacks *stacks);

/*
 * The id of the stack to show for an outstanding block. `kernel_ips`, `max_ips`: room for the kernel's own stack;
 * `kernel_stack_map` is where to look its id up.
 */
uint64_t dwunw_stacks__stack_of(struct dwunw_stacks *stacks, const struct alloc_info *info, int kernel_stack_map,
				uint64_t *kernel_ips, size_t max_ips);

/* Prints a stack of dwunw's. False for an id that is one of the kernel's: print that, after what this printed. */
bool dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t stack_id);

/* Ends each report's account: what was walked, and everything that is missing. */
void dwunw_stacks__end_report(struct dwunw_stacks *stacks, uint64_t blocks_lost);

#endif /* __DWUNW_STACKS_H */
/* dwunw-added: end */
