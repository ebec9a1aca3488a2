/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The numbers of a compiled unwind table's format (doc/table_format.md). The writer in user space and the walk in the
 * kernel both take them from here.
 *
 *     offset from the table's first page    | page | block (6 bits) | within the block (10 bits) |
 *     a row                                  | within the block (10 bits) | slot (6 bits) |
 *     a word of the page's dictionary        | the gap before the row (4 bits) | entry (12 bits) |
 */
#ifndef DWUNW_BPF_DWUNW_TABLE_FORMAT_H
#define DWUNW_BPF_DWUNW_TABLE_FORMAT_H

#define DWUNW_TABLE_PAGE_BITS 16  /* a page is 64 KiB of code */
#define DWUNW_TABLE_BLOCK_BITS 10 /* a block is 1 KiB */
#define DWUNW_TABLE_IN_BLOCK ((1u << DWUNW_TABLE_BLOCK_BITS) - 1)
#define DWUNW_TABLE_BLOCKS (1u << (DWUNW_TABLE_PAGE_BITS - DWUNW_TABLE_BLOCK_BITS))
#define DWUNW_TABLE_UNIFORM_PAGE 0x80000000u /* the page has one entry, which is in the reference to it */
#define DWUNW_TABLE_SLOT_BITS 6
#define DWUNW_TABLE_ESCAPE ((1u << DWUNW_TABLE_SLOT_BITS) - 1) /* the row's entry is in the overflow list */
#define DWUNW_TABLE_ENTRY_BITS 12
#define DWUNW_TABLE_ENTRY ((1u << DWUNW_TABLE_ENTRY_BITS) - 1)
#define DWUNW_TABLE_MAX_GAP ((1u << (16 - DWUNW_TABLE_ENTRY_BITS)) - 1) /* before a row, in bytes */

/* Entries: what holds from a row on. */
#define DWUNW_TABLE_GAP 0     /* no FDE */
#define DWUNW_TABLE_REFUSED 1 /* an FDE that was refused */
#define DWUNW_TABLE_FIRST_RULE 2

#endif /* DWUNW_BPF_DWUNW_TABLE_FORMAT_H */
