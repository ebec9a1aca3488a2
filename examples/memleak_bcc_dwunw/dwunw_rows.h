/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/* dwunw-added: begin the whole file: the rows of a report, one for each call chain */
/*
 * A report has one row for each call chain, also if several methods found it, or under several ids. Two stacks belong
 * to one row if they have the same instructions in the same order. A module may have been loaded twice, so the
 * positions in the module count, not its addresses.
 */
#ifndef __DWUNW_ROWS_H
#define __DWUNW_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dwunw/unwind.h>

/* The key of a row: a stack id of dwunw's (at least 1 << 32), or one of the kernel's. */
struct dwunw_row_id {
	uint64_t id;
	uint32_t row;
	uint32_t status; /* of the stack: enum dwunw_status */
};

struct dwunw_row {
	uint64_t hash;
	uint64_t id;	    /* the first one with these frames */
	bool by_dwunw;	    /* some of its blocks have a stack of dwunw's */
	uint64_t by_kernel; /* the number of its blocks with a stack of the kernel's */
	uint64_t lost;	    /* bit n: why these have no stack of dwunw's, enum dwunw_bpf_reason */
	uint64_t whole;	    /* blocks whose stack is complete */
	uint64_t partial;   /* bit n: why others' stacks are not complete, enum dwunw_status */
};

/* Gives a stack's frames, valid until the next call. Returns their number. */
typedef size_t (*dwunw_frames_fn)(void *arg, uint64_t id, const struct dwunw_frame **frames);

struct dwunw_rows {
	dwunw_frames_fn frames_of; /* for an id that was added; the user sets it, with its argument */
	void *arg;
	struct dwunw_row *rows;
	size_t count, capacity;
	struct dwunw_row_id *ids; /* an open hash table of a power of two */
	size_t id_count, id_capacity;
	uint32_t *by_frames; /* the same: row + 1, 0: none */
	size_t frame_capacity;
};

void dwunw_rows__clear(struct dwunw_rows *rows);
void dwunw_rows__free(struct dwunw_rows *rows);

/* NULL: not in this report. */
const struct dwunw_row_id *dwunw_rows__find(const struct dwunw_rows *rows, uint64_t id);

/* Adds an id with its frames; they must not be frames_of's own array. NULL: no memory. */
const struct dwunw_row_id *dwunw_rows__add(struct dwunw_rows *rows, uint64_t id, uint32_t status,
					   const struct dwunw_frame *frames, size_t count);

#endif /* __DWUNW_ROWS_H */
/* dwunw-added: end */
