// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests the written bits. unwind_table_test proves that they read back.
#include "unwind/table_writer.h"

#include <gtest/gtest.h>

namespace dwunw::unwind {
namespace {

using namespace table_format;

constexpr uint32_t kRule = kFirstRule;
constexpr uint16_t row(unsigned in_block, unsigned slot) { return static_cast<uint16_t>(in_block << kSlotBits | slot); }
constexpr uint16_t word(unsigned pad, uint32_t entry) { return static_cast<uint16_t>(pad << kEntryBits | entry); }

TEST(TableWriter, APageOfRows) {
    TableWriter writer;
    writer.add(0, kRule);
    writer.add(0x10, kRule + 1);
    writer.add(0x400, kRule);
    writer.finish();
    EXPECT_EQ(writer.pages, std::vector<uint32_t>{0});
    ASSERT_EQ(writer.units.size(), kBlocks + 3 + 2);
    EXPECT_EQ(writer.units[0], 2); // rows, less one
    EXPECT_EQ(writer.units[1], 2); // block 1 begins with the third
    EXPECT_EQ(writer.units[2], 3);
    EXPECT_EQ(writer.units[kBlocks - 1], 3);
    const std::vector<uint16_t> rest(writer.units.begin() + kBlocks, writer.units.end());
    EXPECT_EQ(rest, (std::vector<uint16_t>{row(0, 0), row(0x10, 1), row(0, 0), word(0, kRule), word(0, kRule + 1)}));
    EXPECT_TRUE(writer.overflow.empty());
}

TEST(TableWriter, AShortGapBelongsToTheRowBehindIt) {
    TableWriter writer;
    writer.add(0, kRule);
    writer.add(0x1b, kGap);
    writer.add(0x20, kRule);
    writer.add(0x31, kGap); // 16 bytes: too long
    writer.add(0x41, kRule);
    writer.finish();
    const std::vector<uint16_t> rest(writer.units.begin() + kBlocks, writer.units.end());
    EXPECT_EQ(rest, (std::vector<uint16_t>{row(0, 0), row(0x20, 1), row(0x31, 2), row(0x41, 0), word(0, kRule),
                                           word(5, kRule), word(0, kGap)}));
}

TEST(TableWriter, PagesOfOneEntry) {
    TableWriter writer;
    writer.add(0x10, kRule);
    writer.add(0x40000, kGap);
    writer.add(0x50000, kRule + 3);
    writer.finish();
    ASSERT_EQ(writer.pages.size(), 6u);
    EXPECT_EQ(writer.pages[0], 0u);
    for (const size_t page : {1u, 2u, 3u})
        EXPECT_EQ(writer.pages[page], kUniformPage | kRule);
    EXPECT_EQ(writer.pages[4], kUniformPage | kGap);
    EXPECT_EQ(writer.pages[5], kUniformPage | (kRule + 3));
    // The first page begins with what holds before the first row: nothing.
    const std::vector<uint16_t> rest(writer.units.begin() + kBlocks, writer.units.end());
    EXPECT_EQ(rest, (std::vector<uint16_t>{row(0, 0), row(0x10, 1), word(0, kGap), word(0, kRule)}));
}

TEST(TableWriter, RareEntriesOverflow) {
    TableWriter writer;
    // 70 rules, of which the first is used again and again; and one that no word can name.
    for (uint32_t i = 0; i < 70; ++i) {
        writer.add(32 * i, kRule + i);
        writer.add(32 * i + 16, kRule);
    }
    writer.add(0x8000, 1u << kEntryBits);
    writer.finish();
    EXPECT_EQ(writer.overflow.size(), 70u - kEscape + 1);
    for (const Overflow &row : writer.overflow) {
        EXPECT_EQ(writer.units[row.unit] & kEscape, kEscape);
        EXPECT_NE(row.entry, kRule);
    }
    EXPECT_EQ(writer.overflow.back().entry, 1u << kEntryBits);
}

TEST(TableWriter, AnEmptyTableHasNoPages) {
    TableWriter writer;
    writer.finish();
    EXPECT_TRUE(writer.pages.empty());
    EXPECT_TRUE(writer.units.empty());
}

} // namespace
} // namespace dwunw::unwind
