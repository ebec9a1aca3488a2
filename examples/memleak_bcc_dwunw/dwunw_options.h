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
	bool user_walk;	      /* stacks are walked in user space */
	bool probes_at_entry; /* probes sit at the functions' entries */
	bool probes_as_asked; /* --probe-placement was given */
	uint32_t returns;     /* how they are seen: enum dwunw_attach_returns */
	uint32_t stack_bytes; /* of each stack for a walk in user space */
	uint32_t ring_bytes;  /* of records on their way */
	uint32_t kept_bytes;  /* of stacks that are known */
	uint32_t table_bytes; /* of unwind tables in the kernel */
	uint32_t path_limit;  /* new stacks a second behind one path */
	uint32_t blocks;      /* outstanding ones at a time */
};

extern struct dwunw_options dwunw_options;

/* For struct argp's member of that name. */
extern const struct argp_child dwunw_argp_children[];

#endif /* __DWUNW_OPTIONS_H */
/* dwunw-added: end */
