// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Gaps between functions:
//
//     0x1120  ret            the last row of a function
//     0x1121  15 bytes       a gap: no FDE
//     0x1130  push %rbp      the row of the next function: its dictionary word says "15 gap bytes before me"
//
// Most functions are aligned to 16 bytes, so a gap of a few bytes lies between two of them. A row for each gap would be
// a fifth of some tables. So a short gap is part of the row behind it. If a page then needs more words than it has
// slots, its gaps become rows again. If that is still too many, the rarest entries go to the overflow list.
//
// Proved by tests/unit/unwind_table_test (every address of synthetic tables, the reference interpreter on real ones).
#include "unwind/table_writer.h"

#include <algorithm>

namespace dwunw::unwind {

using namespace table_format;

namespace {

constexpr unsigned block_of(unsigned offset) { return offset >> kBlockBits; }
constexpr unsigned in_block(unsigned offset) { return offset & ((1u << kBlockBits) - 1); }

} // namespace

void TableWriter::add(uint32_t offset, uint32_t entry) {
    const size_t page = offset >> kPageBits;
    if (page > pages.size()) {
        if (!rows_.empty())
            write_page();
        // Pages in which no row begins.
        pages.resize(page, kUniformPage | last_entry_);
    }
    const auto in_page = static_cast<uint16_t>(offset & 0xffff);
    // A page begins with the entry that holds at its start.
    if (rows_.empty() && in_page != 0)
        rows_.push_back({0, 0, last_entry_});
    rows_.push_back({in_page, 0, entry});
    last_entry_ = entry;
}

void TableWriter::finish() {
    if (!rows_.empty())
        write_page();
    pages.shrink_to_fit();
    overflow.shrink_to_fit();
}

void TableWriter::join_gaps() {
    joined_.clear();
    for (size_t i = 0; i < rows_.size(); ++i) {
        const Row &row = rows_[i];
        if (row.entry == kGap && i > 0 && i + 1 < rows_.size()) {
            Row next = rows_[i + 1];
            if (next.offset - row.offset <= static_cast<int>(kMaxPad) && next.entry >= kFirstRule &&
                next.entry >> kEntryBits == 0 && block_of(next.offset) == block_of(row.offset)) {
                next.pad = static_cast<uint8_t>(next.offset - row.offset);
                joined_.push_back(next);
                ++i;
                continue;
            }
        }
        joined_.push_back(row);
    }
}

// Fills words_ and slot_of_ from joined_. If there are too many words, stops with more than kEscape of them.
void TableWriter::number_words() {
    for (const uint16_t word : words_)
        slot_of_[place_of(word)] = kNoSlot;
    words_.clear();
    for (const Row &row : joined_) {
        if (row.entry >> kEntryBits != 0)
            continue; // fits no word
        const uint16_t word = word_of(row);
        const size_t place = place_of(word);
        if (place >= slot_of_.size())
            slot_of_.resize(std::max(place + 1, 2 * slot_of_.size()), kNoSlot);
        if (slot_of_[place] != kNoSlot)
            continue;
        slot_of_[place] = static_cast<uint8_t>(std::min<size_t>(words_.size(), kEscape));
        words_.push_back(word);
    }
}

void TableWriter::write_page() {
    if (rows_.size() == 1) { // its row begins with the page
        pages.push_back(kUniformPage | rows_[0].entry);
        rows_.clear();
        return;
    }
    join_gaps();
    number_words();
    if (words_.size() > kEscape) {
        joined_ = rows_;
        number_words();
    }
    if (words_.size() > kEscape) {
        counts_.assign(slot_of_.size(), 0);
        for (const Row &row : joined_)
            if (row.entry >> kEntryBits == 0)
                ++counts_[place_of(word_of(row))];
        std::ranges::stable_sort(
            words_, [this](uint16_t a, uint16_t b) { return counts_[place_of(a)] > counts_[place_of(b)]; });
        for (size_t i = 0; i < words_.size(); ++i)
            slot_of_[place_of(words_[i])] = static_cast<uint8_t>(std::min<size_t>(i, kEscape));
    }

    const size_t first_unit = units.size();
    pages.push_back(static_cast<uint32_t>(first_unit));
    units.resize(first_unit + kBlocks);
    unsigned block = 1;
    for (size_t i = 0; i < joined_.size(); ++i) {
        const Row &row = joined_[i];
        for (; block <= block_of(row.offset); ++block)
            units[first_unit + block] = static_cast<uint16_t>(i);
        const uint16_t slot = row.entry >> kEntryBits == 0 ? slot_of_[place_of(word_of(row))] : kEscape;
        if (slot == kEscape)
            overflow.push_back({static_cast<uint32_t>(units.size()), row.entry});
        units.push_back(static_cast<uint16_t>(in_block(row.offset) << kSlotBits | slot));
    }
    for (; block < kBlocks; ++block)
        units[first_unit + block] = static_cast<uint16_t>(joined_.size());
    // Block 0's rows begin at 0, so its element holds the number of rows instead.
    units[first_unit] = static_cast<uint16_t>(joined_.size() - 1);
    const size_t words = std::min<size_t>(words_.size(), kEscape);
    units.insert(units.end(), words_.begin(), words_.begin() + static_cast<ptrdiff_t>(words));
    rows_.clear();
}

} // namespace dwunw::unwind
