// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Writes rows in the table's format (doc/table_format.md), page by page.
#pragma once

#include "base/pages.h"
#include "unwind/table.h"

#include <array>
#include <vector>

namespace dwunw::unwind {

class TableWriter {
  public:
    // `entry` holds from `offset` on. Offsets ascend; they are relative to the table's base.
    void add(uint32_t offset, uint32_t entry);
    // The last entry holds to the end of its page.
    void finish();

    std::vector<uint32_t> pages;
    PagedVector<uint16_t> units;
    std::vector<table_format::Overflow> overflow;

  private:
    struct Row {
        uint16_t offset; // in the page
        uint8_t pad;     // gap bytes before the row
        uint32_t entry;
    };
    void write_page();
    void join_gaps();
    void number_words();
    static uint16_t word_of(const Row &row) {
        return static_cast<uint16_t>(row.pad << table_format::kEntryBits | row.entry);
    }
    // The index of a word: by entry, then by gap. Most modules have a few dozen entries, so the arrays that are indexed
    // by it stay short.
    static size_t place_of(uint16_t word) {
        constexpr unsigned kPadBits = 16 - table_format::kEntryBits;
        return static_cast<size_t>((word & ((1u << table_format::kEntryBits) - 1)) << kPadBits |
                                   word >> table_format::kEntryBits);
    }

    std::vector<Row> rows_;   // of the page that is being collected
    std::vector<Row> joined_; // the same, with gaps joined to the rows behind them
    uint32_t last_entry_ = table_format::kGap;
    // The dictionary that is being made: a word's index → its slot. kNoSlot between pages.
    static constexpr uint8_t kNoSlot = 0xff;
    std::vector<uint8_t> slot_of_;
    std::vector<uint16_t> words_;  // in order of slot
    std::vector<uint32_t> counts_; // number of rows by a word's index, if there are too many words
};

} // namespace dwunw::unwind
