/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * The lookup of a rule in a module's table, which doc/table_format.md describes with an example. Table::lookup
 * (src/unwind/table.cc) does the same in user space; the numbers of the format are <dwunw/bpf/dwunw_table_format.h>.
 */
#ifndef DWUNW_BPF_DETAIL_TABLE_H
#define DWUNW_BPF_DETAIL_TABLE_H

#include "maps.bpf.h"
#include <dwunw/bpf/dwunw_table_format.h>

static __always_inline __u64 dwunw_cell(__u64 index) {
    __u32 key = index;
    __u64 *cell = bpf_map_lookup_elem(&dwunw_pool, &key);

    return cell ? *cell : 0;
}

static __always_inline __u32 dwunw_unit(__u64 index) { return dwunw_cell(index / 4) >> (index % 4 * 16) & 0xffff; }

/* The entry of a row that is in the overflow array; 0: there is none. */
DWUNW_SHARED __noinline __u64 dwunw_overflow_entry(__u64 first, __u32 count, __u32 unit) {
    __u32 low = 0, high = count, i;
    __u64 cell;

    if (dwunw_settings.off)
        return 0;
    for (i = 0; i < DWUNW_BPF_OVERFLOW_STEPS && low < high; i++) {
        const __u32 middle = low + (high - low) / 2;

        if ((__u32)dwunw_cell(first + middle) < unit)
            low = middle + 1;
        else
            high = middle;
    }
    cell = dwunw_cell(first + low);
    return low < count && (__u32)cell == unit ? cell >> 32 : 0;
}

/* The rule at an offset from a table's first page; 0: there is none. doc/table_format.md, "Lookup". */
DWUNW_SHARED __noinline __u64 dwunw_table_rule(__u64 table, __u64 offset) {
    const __u64 sizes = dwunw_cell(table), places = dwunw_cell(table + 1);
    const __u64 page_number = offset >> DWUNW_TABLE_PAGE_BITS;
    __u32 within = offset & DWUNW_TABLE_IN_BLOCK, block = offset >> DWUNW_TABLE_BLOCK_BITS & (DWUNW_TABLE_BLOCKS - 1);
    __u32 count, low, high, last, key, row, slot, i;
    __u64 page, units, rows, entry;

    if (dwunw_settings.off || page_number >= (__u32)sizes)
        return 0;
    page = (__u32)(dwunw_cell(table + DWUNW_BPF_TABLE_CELLS + page_number / 2) >> (page_number % 2 * 32));
    if (page & DWUNW_TABLE_UNIFORM_PAGE) {
        entry = page & ~DWUNW_TABLE_UNIFORM_PAGE;
    } else {
        units = (table + (sizes >> 32)) * 4 + page;
        count = dwunw_unit(units) + 1;
        low = block ? dwunw_unit(units + block) : 0;
        last = high = block == DWUNW_TABLE_BLOCKS - 1 ? count : dwunw_unit(units + block + 1);
        rows = units + DWUNW_TABLE_BLOCKS;
        key = within << DWUNW_TABLE_SLOT_BITS | DWUNW_TABLE_ESCAPE;
        for (i = 0; i < DWUNW_BPF_BLOCK_STEPS && low < high; i++) {
            const __u32 middle = (low + high) / 2;

            if (dwunw_unit(rows + middle) <= key)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < last) {
            row = dwunw_unit(rows + low);
            slot = row & DWUNW_TABLE_ESCAPE;
            if (slot != DWUNW_TABLE_ESCAPE &&
                (row >> DWUNW_TABLE_SLOT_BITS) - within <= dwunw_unit(rows + count + slot) >> DWUNW_TABLE_ENTRY_BITS)
                return 0; /* the gap before the next row */
        }
        low -= 1;
        slot = dwunw_unit(rows + low) & DWUNW_TABLE_ESCAPE;
        if (slot == DWUNW_TABLE_ESCAPE)
            entry =
                dwunw_overflow_entry(table + (places >> 32), dwunw_cell(table + 2), page + DWUNW_TABLE_BLOCKS + low);
        else
            entry = dwunw_unit(rows + count + slot) & DWUNW_TABLE_ENTRY;
    }
    return entry < DWUNW_TABLE_FIRST_RULE ? 0 : dwunw_cell(table + (__u32)places + entry - DWUNW_TABLE_FIRST_RULE);
}

#endif /* DWUNW_BPF_DETAIL_TABLE_H */
