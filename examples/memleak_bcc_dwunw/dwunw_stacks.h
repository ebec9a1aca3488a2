/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what memleak's user half does with the stack ids of its kernel half */
/*
 * Turns the stack ids of outstanding blocks into the rows of a report, and prints their stacks.
 *
 * memleak's reports are by stack id. With dwunw, this id is the number of a row: there is one row for each call chain,
 * and, from DWUNW_STACK_MISSING on, one row for each reason why blocks have no stack.
 */
#ifndef __DWUNW_STACKS_H
#define __DWUNW_STACKS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dwunw_options.h"
#include "dwunw_target.h"
#include "memleak_dwunw.h"

#define DWUNW_STACK_MISSING (1ull << 32)
#define DWUNW_STACK_SKIPPED ((uint64_t)-1) /* a block that is not in this report */

struct bpf_object;
struct dwunw_stacks;

/* True if libbpf may not look for optional kernel functions (__weak __ksym): then no program loads. */
bool dwunw_stacks__lack_admin(void);

/*
 * Call them in this order: open, which sizes the maps; the object's load; start, which adds a process.
 * 0, or a negative errno, and *why says what failed.
 */
int dwunw_stacks__open(struct dwunw_stacks **stacks, struct bpf_object *object, const struct dwunw_options *options,
		       const char **why);
int dwunw_stacks__start(struct dwunw_stacks *stacks, int pid, bool verbose, const char **why);
void dwunw_stacks__free(struct dwunw_stacks *stacks);

/* Takes in stacks until `interval` seconds are over, the target has ended, or *exiting is set by a signal. */
void dwunw_stacks__wait(struct dwunw_stacks *stacks, const struct dwunw_target *target, int interval,
			const volatile sig_atomic_t *exiting);

/*
 * Takes in all records up to now, which is the report's time. Call it before the outstanding blocks are read. `image`:
 * the number of the process's present program, as in its blocks. `min_age_ns`: the least age of blocks to show.
 */
void dwunw_stacks__begin_report(struct dwunw_stacks *stacks, uint32_t image, uint64_t min_age_ns);

/*
 * The row of an outstanding block. Call it for each block. `kernel_ips`, `max_ips`: room for the kernel's own stack,
 * whose id is looked up in `kernel_stack_map`.
 */
uint64_t dwunw_stacks__row_of(struct dwunw_stacks *stacks, const struct alloc_info *info, int kernel_stack_map,
			      uint64_t *kernel_ips, size_t max_ips);

/* Prints a row's stack. */
void dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t row);

/* Prints the last lines of a report: what was walked, and everything that is missing. */
void dwunw_stacks__end_report(struct dwunw_stacks *stacks, uint64_t blocks_lost);

#endif /* __DWUNW_STACKS_H */
/* dwunw-added: end */
