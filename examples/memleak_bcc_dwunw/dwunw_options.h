/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: the switches of the DWARF path */
#ifndef __DWUNW_OPTIONS_H
#define __DWUNW_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "memleak_dwunw.h"

struct dwunw_options {
	enum dwunw_mode mode;
	bool user_walk;	      /* user space walks all stacks */
	bool probes_at_entry; /* probes are at the functions' entries */
	bool probes_as_asked; /* --probe-placement was given */
	uint32_t returns;     /* how returns are seen: enum dwunw_attach_returns */
	uint32_t stack_bytes; /* the most bytes of a stack for a walk in user space */
	uint32_t ring_bytes;  /* room for records on their way to user space */
	uint32_t kept_bytes;  /* room for known stacks */
	uint32_t table_bytes; /* room for unwind tables in the kernel */
	uint32_t path_limit;  /* new stacks a second that begin with the same frames */
	uint32_t blocks;      /* the most outstanding blocks at a time */
};

extern struct dwunw_options dwunw_options;

/* For struct argp's member of that name. */
extern const struct argp_child dwunw_argp_children[];

#endif /* __DWUNW_OPTIONS_H */
/* dwunw-added: end */
