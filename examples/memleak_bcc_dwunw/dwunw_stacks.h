/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: what memleak's user half does with the stack ids of its kernel half */
/*
 * From the stack ids of outstanding blocks to the rows of a report and their printed stacks.
 *
 * memleak's reports are by stack id. With dwunw, such an id is a row's: one row for each call chain, and from
 * DWUNW_STACK_MISSING on one for each reason why blocks have no stack.
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
#define DWUNW_STACK_SKIPPED ((uint64_t)-1) /* a block that is none of this report's */

struct bpf_object;
struct dwunw_stacks;

/* Whether libbpf may not look for functions that the kernel lacks and a program can do without: then none loads. */
bool dwunw_stacks__lack_admin(void);

/*
 * In this order: open, which sizes the maps; the object's load; start, which makes a process known.
 * 0, or a negative errno with *why saying what failed.
 */
int dwunw_stacks__open(struct dwunw_stacks **stacks, struct bpf_object *object, const struct dwunw_options *options,
		       const char **why);
int dwunw_stacks__start(struct dwunw_stacks *stacks, int pid, bool verbose, const char **why);
void dwunw_stacks__free(struct dwunw_stacks *stacks);

/* Takes in stacks until `interval` seconds are over, the target has ended, or *exiting is set by a signal. */
void dwunw_stacks__wait(struct dwunw_stacks *stacks, const struct dwunw_target *target, int interval,
			const volatile sig_atomic_t *exiting);

/*
 * Takes in what has come until now, which is the report's time. To be called before the outstanding blocks are read.
 * `image`: the program that the process executes now, as its blocks have it; `min_age_ns`: of blocks to be shown.
 */
void dwunw_stacks__begin_report(struct dwunw_stacks *stacks, uint32_t image, uint64_t min_age_ns);

/*
 * The row of an outstanding block, to be called for each of them. `kernel_ips`, `max_ips`: room for the kernel's own stack; `kernel_stack_map` is
 * where to look its id up.
 */
uint64_t dwunw_stacks__row_of(struct dwunw_stacks *stacks, const struct alloc_info *info, int kernel_stack_map,
			      uint64_t *kernel_ips, size_t max_ips);

/* Prints a row's stack. */
void dwunw_stacks__print(struct dwunw_stacks *stacks, uint64_t row);

/* Ends each report's account: what was walked, and everything that is missing. */
void dwunw_stacks__end_report(struct dwunw_stacks *stacks, uint64_t blocks_lost);

#endif /* __DWUNW_STACKS_H */
/* dwunw-added: end */
