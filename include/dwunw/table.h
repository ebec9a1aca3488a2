/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Reads the compiled unwind table of one ELF file, row by row. Addresses are the file's own (link addresses).
 */
#ifndef DWUNW_TABLE_H
#define DWUNW_TABLE_H

#include <dwunw/dwunw_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dwunw_table;

/* Opens an ELF file and compiles its table. Errors: DWUNW_ERR_NO_FILE, DWUNW_ERR_PERMISSION, DWUNW_ERR_NOT_ELF,
   DWUNW_ERR_ELF_MALFORMED, DWUNW_ERR_UNSUPPORTED_ARCH, DWUNW_ERR_NO_CFI, DWUNW_ERR_LIMIT;
   DWUNW_ERR_INVALID_ARGUMENT for a relocatable file (.o, .ko), which has no addresses until it is linked. */
dwunw_status dwunw_table_open(struct dwunw_context *context, const char *path, struct dwunw_table **out);
void dwunw_table_close(struct dwunw_table *table);

struct dwunw_table_summary {
    uint32_t size;
    uint32_t arch;       /* enum dwunw_arch */
    uint64_t fdes;       /* FDEs compiled */
    uint64_t refused;    /* FDEs refused, see dwunw_table_get_refusal */
    uint64_t tombstones; /* FDEs of discarded code (address 0 or length 0); the table leaves them out */
    uint64_t rows;       /* adjacent equal rows of one FDE count as one */
    uint64_t rules;      /* distinct rules */
    uint64_t bytes;      /* memory of the table */
    uint64_t build_ns;
};
dwunw_status dwunw_table_get_summary(const struct dwunw_table *table, struct dwunw_table_summary *out);

/* How to find the value of one column of a row. */
enum dwunw_rule_kind {
    DWUNW_RULE_SAME = 0,           /* keeps its value; also of a register that no rule mentions */
    DWUNW_RULE_UNDEFINED = 1,      /* RA: this is the outermost frame */
    DWUNW_RULE_OFFSET = 2,         /* saved at CFA + offset */
    DWUNW_RULE_VAL_OFFSET = 3,     /* is CFA + offset */
    DWUNW_RULE_REGISTER = 4,       /* CFA: reg + offset; RA, FP: in register reg */
    DWUNW_RULE_EXPRESSION = 5,     /* CFA: is the expression; RA, FP: saved at the expression's address */
    DWUNW_RULE_VAL_EXPRESSION = 6, /* is the expression */
};

struct dwunw_rule {
    uint32_t kind; /* enum dwunw_rule_kind */
    uint32_t reg;  /* DWARF number */
    int64_t offset;
};

struct dwunw_row {
    uint32_t size;
    uint32_t reserved;
    uint64_t start, end; /* end exclusive */
    struct dwunw_rule cfa, ra, fp;
};

/* Row `index` of dwunw_table_summary.rows, in ascending order of `start`. DWUNW_ERR_NOT_FOUND: past the last row. */
dwunw_status dwunw_table_get_row(const struct dwunw_table *table, uint64_t index, struct dwunw_row *out);

/* The row that covers `address`. DWUNW_ERR_NOT_FOUND: no FDE covers it. */
dwunw_status dwunw_table_lookup(const struct dwunw_table *table, uint64_t address, struct dwunw_row *out);

struct dwunw_refusal {
    uint32_t size;
    uint32_t status;         /* a dwunw_status: why */
    uint64_t section_offset; /* of the FDE or CIE in .eh_frame or .debug_frame */
    uint64_t start;          /* its first code address; 0: unknown */
};
/* Refusal `index`. DWUNW_ERR_NOT_FOUND: past the last one kept. dwunw_table_summary.refused counts all refusals. The
   table keeps at most 4,096 of the FDEs that it could not list, and 4,096 of those that it could not execute. */
dwunw_status dwunw_table_get_refusal(const struct dwunw_table *table, uint64_t index, struct dwunw_refusal *out);

/* A register's name, e.g. "rbp": static; NULL if the architecture has no such register. */
const char *dwunw_register_name(uint32_t arch, uint32_t reg);

#ifdef __cplusplus
}
#endif

#endif
