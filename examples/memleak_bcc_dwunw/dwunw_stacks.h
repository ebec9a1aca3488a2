/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what memleak does with the records that its kernel half sends */
/*
 * From ring-buffer records to printed stacks. Records are walked when they are polled; equal stacks are one; the stack
 * of an outstanding block is found by the block's address and time.
 *
 * A stack's number is what memleak has a stack id for. With it, fallback mode says which of two stacks is shown: dwunw's
 * (numbers from DWUNW_STACK_ID_BASE on) or the kernel's own (its stack id).
 */
#ifndef __DWUNW_STACKS_H
#define __DWUNW_STACKS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#include "memleak_dwunw.h"

#define DWUNW_STACK_ID_BASE (1ull << 32)
#define DWUNW_STACK_ID_LATER ((uint64_t)-1) /* a block that is younger than the report */

struct dwunw_stacks;

/* Watches `pid` through the ring buffer `map_fd`. 0, or a negative errno with *why saying what failed. */
int dwunw_stacks__new(struct dwunw_stacks **stacks, int map_fd, int pid, enum dwunw_mode mode, const char **why);
void dwunw_stacks__free(struct dwunw_stacks *stacks);

/* Takes in records until `interval` seconds are over, or *exiting is set by a signal. */
void dwunw_stacks__wait(struct dwunw_stacks *stacks, int interval, const volatile sig_atomic_t *exiting);

/* Takes in what has come until now, which is the report's time. To be called before the outstanding blocks are read. */
void dwunw_stacks__begin_report(struct dwunw_stacks *stacks);

/*
 * The number of the stack to show for an outstanding block. `kernel_ips`, `max_ips`: room for the kernel's own stack;
 * `kernel_stack_map` is where to look its id up.
 */
uint64_t dwunw_stacks__stack_of(struct dwunw_stacks *stacks, uint64_t address, const struct alloc_info *info,
				int kernel_stack_map, uint64_t *kernel_ips, size_t max_ips);

/* Prints a stack of dwunw's. False for a number that is one of the kernel's: print that, after what this printed. */
bool dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t stack_id);

/* Forgets blocks that the report did not ask for: they are outstanding no more. Ends each report's account. */
void dwunw_stacks__end_report(struct dwunw_stacks *stacks, uint64_t dropped);

#endif /* __DWUNW_STACKS_H */
/* dwunw-added: end */
