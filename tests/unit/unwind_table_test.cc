// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares the compiled table with a slow interpreter of the same bytes, on files of the distribution and on this
// program; also compiles bytes that no compiler wrote.
#include "unwind/table.h"

#include "elf/image.h"
#include "process/file_source.h"
#include "support/cfi_bytes.h"
#include "support/reference_cfi.h"
#include "support/rule_text.h"

#include <gtest/gtest.h>

#include <link.h>

#include <map>
#include <random>

namespace dwunw::unwind {
namespace {

using testing::Bytes;
using testing::FrameSection;
using testing::text_of;
using testing::x86_64;
using enum testing::Reg;

dwarf::CfiSection section_of(const FrameSection &bytes, dwarf::SectionKind kind = dwarf::SectionKind::kEhFrame) {
    return {kind, bytes.data(), LinkAddr(0x100000), LinkAddr(), LinkAddr()};
}

struct Compiled {
    explicit Compiled(std::span<const dwarf::CfiSection> sections)
        : index(sections), table(Table::build(sections, index, x86_64())) {}

    FdeList index;
    Table table;
};

Compiled compile(const FrameSection &bytes) {
    const auto section = section_of(bytes);
    return Compiled(std::span(&section, 1));
}
Table table_of(const FrameSection &bytes) { return compile(bytes).table; }

// Steps through [start, end) by what row_at says: each row holds to its end and no further than it says.
void expect_rows(const Table &table, uint64_t start, uint64_t end) {
    for (LinkAddr at(start); at < LinkAddr(end);) {
        const Table::Row row = table.row_at(at);
        ASSERT_LT(at, row.end);
        for (const LinkAddr inside : {at, row.end - 1}) {
            const auto found = table.lookup(inside);
            ASSERT_EQ(found.status, row.status) << std::hex << at.value << " " << inside.value;
            ASSERT_EQ(found.rule, row.rule) << std::hex << at.value << " " << inside.value;
        }
        at = row.end;
    }
}

std::vector<std::string> loaded_files() {
    std::vector<std::string> files = {"/proc/self/exe", "/usr/bin/python3", "/usr/bin/gdb"};
    ::dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *out) {
            if (*info->dlpi_name == '/')
                static_cast<std::vector<std::string> *>(out)->emplace_back(info->dlpi_name);
            return 0;
        },
        &files);
    return files;
}

TEST(Table, EqualsTheReference) {
    std::mt19937_64 random(20);
    size_t compared = 0;
    size_t signal_frames = 0;
    size_t expressions = 0;
    size_t gaps = 0;
    for (const std::string &path : loaded_files()) {
        SCOPED_TRACE(path);
        auto source = process::FileSource::open(path.c_str());
        ASSERT_TRUE(source);
        auto image = elf::Image::parse(*source);
        ASSERT_TRUE(image);
        auto eh_frame = image->read_eh_frame(*source);
        ASSERT_TRUE(eh_frame && *eh_frame);
        const SectionBytes &bytes = **eh_frame;
        const dwarf::CfiSection section(dwarf::SectionKind::kEhFrame, bytes.bytes, bytes.address, image->text_base(),
                                        image->data_base());
        const auto [index, table] = Compiled(std::span(&section, 1));
        const auto fdes = reference::read_eh_frame(bytes.bytes, bytes.address.value);
        EXPECT_EQ(table.fde_count() + index.tombstone_count(), fdes.size());
        EXPECT_TRUE(index.refusals().empty());
        EXPECT_TRUE(table.refusals().empty());
        for (const reference::Fde &fde : fdes) {
            if (fde.start == 0 || fde.start == fde.end)
                continue;
            const FdeRef *ref = index.find(LinkAddr(fde.start));
            ASSERT_NE(ref, nullptr) << std::hex << fde.start;
            ASSERT_EQ(ref->end.value, fde.end) << std::hex << fde.start;
            for (size_t i = 0; i < fde.rows.size(); ++i) {
                const uint64_t start = fde.rows[i].start;
                const uint64_t end = i + 1 < fde.rows.size() ? fde.rows[i + 1].start : fde.end;
                const std::string expected = text_of(fde.rows[i], fde);
                for (const uint64_t pc : {start, end - 1, start + random() % (end - start)}) {
                    const auto found = table.lookup(LinkAddr(pc));
                    ASSERT_EQ(found.status, DWUNW_OK) << std::hex << pc;
                    ASSERT_EQ(text_of(*found.rule), expected) << std::hex << pc;
                    const Table::Row row = table.row_at(LinkAddr(pc));
                    ASSERT_EQ(row.rule, found.rule) << std::hex << pc;
                    ASSERT_GT(row.end.value, pc);
                    if (row.end.value != end && row.end.value != 0) {
                        const auto beyond = table.lookup(LinkAddr(std::min(end, row.end.value)));
                        ASSERT_TRUE(beyond.rule != nullptr && text_of(*beyond.rule) == expected) << std::hex << pc;
                    }
                    ++compared;
                }
                expressions += fde.rows[i].cfa == "exp";
            }
            signal_frames += fde.signal_frame;
        }
        // What no FDE covers is a gap, from its first byte to its last.
        std::map<uint64_t, uint64_t> covered;
        for (const reference::Fde &fde : fdes)
            if (fde.start != 0)
                covered[fde.start] = fde.end;
        for (auto at = covered.begin(); at != covered.end(); ++at) {
            const auto next = std::next(at);
            if (next != covered.end() && next->first <= at->second)
                continue;
            ASSERT_EQ(table.lookup(LinkAddr(at->second)).status, DWUNW_ERR_NO_CFI) << std::hex << at->second;
            ++gaps;
        }
        expect_rows(table, covered.begin()->first, covered.rbegin()->second);
    }
    EXPECT_GT(compared, 500'000u);
    EXPECT_GE(signal_frames, 1u);
    EXPECT_GT(expressions, 10u);
    EXPECT_GT(gaps, 1000u);
}

TEST(Table, GapsAndEnds) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    bytes.fde(cie, 0x1000, 0x10);
    bytes.fde(cie, 0x1010, 0x10, Bytes().advance(4).def_cfa_offset(16));
    bytes.fde(cie, 0x2000, 0x20);
    bytes.end();
    const auto [index, table] = compile(bytes);
    EXPECT_EQ(table.fde_count(), 3u);
    for (const uint64_t pc : {0x0ull, 0xfffull, 0x1020ull, 0x1fffull, 0x2020ull, ~0ull}) {
        EXPECT_EQ(table.lookup(LinkAddr(pc)).status, DWUNW_ERR_NO_CFI) << std::hex << pc;
        EXPECT_EQ(index.find(LinkAddr(pc)), nullptr) << std::hex << pc;
    }
    for (const uint64_t pc : {0x1000ull, 0x100full, 0x1010ull, 0x1013ull, 0x2000ull, 0x201full})
        EXPECT_EQ(text_of(*table.lookup(LinkAddr(pc)).rule), "r7+8 c-8 s") << std::hex << pc;
    for (const uint64_t pc : {0x1014ull, 0x101full})
        EXPECT_EQ(text_of(*table.lookup(LinkAddr(pc)).rule), "r7+16 c-8 s") << std::hex << pc;
    expect_rows(table, 0, 0x4000);
    EXPECT_EQ(table.rule_count(), 2u);
}

TEST(Table, AnFdeThatCannotBeExecutedIsRefusedWhole) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    bytes.fde(cie, 0x1000, 0x10);
    const size_t bad = bytes.fde(cie, 0x1010, 0x10, Bytes().advance(4).def_cfa_offset(16).advance(4).u8(0x3f));
    bytes.fde(cie, 0x1020, 0x10);
    const Table table = table_of(bytes);
    EXPECT_EQ(table.fde_count(), 2u);
    ASSERT_EQ(table.refusals().size(), 1u);
    EXPECT_EQ(table.refusals()[0].error.status, DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(table.refusals()[0].section_offset, bad);
    EXPECT_EQ(table.refusals()[0].start, LinkAddr(0x1010));
    EXPECT_EQ(table.lookup(LinkAddr(0x100f)).status, DWUNW_OK);
    for (uint64_t pc = 0x1010; pc < 0x1020; ++pc)
        EXPECT_EQ(table.lookup(LinkAddr(pc)).status, DWUNW_ERR_CFI_MALFORMED) << std::hex << pc;
    EXPECT_EQ(table.lookup(LinkAddr(0x1020)).status, DWUNW_OK);
}

TEST(Table, AnOffsetBeyond32BitsIsRefused) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    bytes.fde(cie, 0x1000, 0x10, Bytes().def_cfa_offset(uint64_t{1} << 31));
    bytes.fde(cie, 0x1010, 0x10, Bytes().def_cfa_offset((uint64_t{1} << 31) - 1));
    const Table table = table_of(bytes);
    ASSERT_EQ(table.refusals().size(), 1u);
    EXPECT_EQ(table.refusals()[0].error.status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(text_of(*table.lookup(LinkAddr(0x1010)).rule), "r7+2147483647 c-8 s");
}

TEST(Table, ForeignReturnAddressColumnsAreRefused) {
    FrameSection bytes;
    const size_t cie = bytes.cie(testing::usual_cie_instructions(), "zR", dwarf::DW_EH_PE_absptr, RAX);
    bytes.fde(cie, 0x1000, 0x10);
    const Table table = table_of(bytes);
    EXPECT_EQ(table.fde_count(), 0u);
    EXPECT_EQ(table.lookup(LinkAddr(0x1000)).status, DWUNW_ERR_CFI_MALFORMED);
}

TEST(Table, OfOverlappingFdesTheInnermostHolds) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    bytes.fde(cie, 0x1000, 0x100, Bytes().def_cfa_offset(16));
    bytes.fde(cie, 0x1040, 0x10, Bytes().def_cfa_offset(32)); // inside the first
    bytes.fde(cie, 0x1000, 0x10, Bytes().def_cfa_offset(64)); // where one begins already
    const Table table = table_of(bytes);
    EXPECT_EQ(text_of(*table.lookup(LinkAddr(0x1000)).rule), "r7+16 c-8 s");
    EXPECT_EQ(text_of(*table.lookup(LinkAddr(0x103f)).rule), "r7+16 c-8 s");
    EXPECT_EQ(text_of(*table.lookup(LinkAddr(0x1040)).rule), "r7+32 c-8 s");
    // Behind the inner one nothing is certain.
    EXPECT_EQ(table.lookup(LinkAddr(0x1050)).status, DWUNW_ERR_NO_CFI);
}

// Found by fuzzing: the table had the rows before the overlap, and the FDE executed alone had none.
TEST(Table, AnFdeThatIsSpoiledBehindAnOverlapIsRefusedWhole) {
    for (const Bytes &spoiled :
         {Bytes().advance(0x20).u8(0x3f), Bytes().advance(0x20).def_cfa_offset(uint64_t{1} << 31)}) {
        FrameSection bytes;
        const size_t cie = bytes.cie();
        bytes.fde(cie, 0x1000, 0x100, spoiled);
        bytes.fde(cie, 0x1010, 0x10);
        const Table table = table_of(bytes);
        EXPECT_EQ(table.refusals().size(), 1u);
        EXPECT_EQ(table.lookup(LinkAddr(0x1000)).status, DWUNW_ERR_CFI_MALFORMED);
        EXPECT_EQ(table.lookup(LinkAddr(0x100f)).status, DWUNW_ERR_CFI_MALFORMED);
        EXPECT_EQ(table.lookup(LinkAddr(0x1010)).status, DWUNW_OK);
        EXPECT_EQ(table.lookup(LinkAddr(0x1020)).status, DWUNW_ERR_NO_CFI);
    }
}

TEST(Table, DiscardedCodeIsLeftOut) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    bytes.fde(cie, 0, 0x100);
    bytes.fde(cie, 0x1000, 0);
    bytes.fde(cie, 0x2000, 0x10);
    const auto [index, table] = compile(bytes);
    EXPECT_EQ(index.tombstone_count(), 2u);
    EXPECT_EQ(table.fde_count(), 1u);
    EXPECT_EQ(table.lookup(LinkAddr(0x10)).status, DWUNW_ERR_NO_CFI);
}

TEST(Table, EhFrameComesBeforeDebugFrame) {
    FrameSection eh_frame;
    eh_frame.fde(eh_frame.cie(), 0x1000, 0x10, Bytes().def_cfa_offset(16));
    FrameSection debug_frame(true);
    const size_t cie = debug_frame.cie();
    debug_frame.fde(cie, 0x0ff8, 0x10, Bytes().def_cfa_offset(32)); // overlaps
    debug_frame.fde(cie, 0x1008, 0x4, Bytes().def_cfa_offset(32));  // lies inside
    debug_frame.fde(cie, 0x1010, 0x10, Bytes().def_cfa_offset(48));
    const std::array sections = {section_of(eh_frame), section_of(debug_frame, dwarf::SectionKind::kDebugFrame)};
    const auto [index, table] = Compiled(sections);
    EXPECT_EQ(table.lookup(LinkAddr(0x0ff8)).status, DWUNW_ERR_NO_CFI);
    for (const uint64_t pc : {0x1000ull, 0x1008ull, 0x100full})
        EXPECT_EQ(text_of(*table.lookup(LinkAddr(pc)).rule), "r7+16 c-8 s") << std::hex << pc;
    EXPECT_EQ(text_of(*table.lookup(LinkAddr(0x1010)).rule), "r7+48 c-8 s");
    EXPECT_EQ(index.find(LinkAddr(0x1010))->section, 1u);
}

TEST(Table, ASectionCutAnywhere) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    for (uint64_t i = 0; i < 8; ++i)
        bytes.fde(cie, 0x1000 + 0x10 * i, 0x10, Bytes().advance(2).def_cfa_offset(16));
    const Table whole = table_of(bytes);
    ASSERT_EQ(whole.fde_count(), 8u);
    for (size_t size = 0; size < bytes.data().size(); ++size) {
        FrameSection cut;
        cut.data().assign(bytes.data().begin(), bytes.data().begin() + static_cast<ptrdiff_t>(size));
        const Table table = table_of(cut);
        EXPECT_LT(table.fde_count(), 8u);
        for (uint64_t pc = 0x1000; pc < 0x1080; ++pc) {
            const auto found = table.lookup(LinkAddr(pc));
            if (found.status == DWUNW_OK) {
                ASSERT_EQ(*found.rule, *whole.lookup(LinkAddr(pc)).rule) << size << " " << std::hex << pc;
            }
        }
    }
}

TEST(Table, RandomBytesEndInTypedRefusals) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    for (uint64_t i = 0; i < 8; ++i)
        bytes.fde(cie, 0x1000 + 0x10 * i, 0x10, Bytes().advance(2).def_cfa_offset(16).offset(RBP, 2).advance(3));
    const std::vector<uint8_t> good = bytes.data();
    std::mt19937_64 random(7);
    size_t refused = 0;
    for (int round = 0; round < 20'000; ++round) {
        bytes.data() = good;
        for (uint64_t flips = 1 + random() % 4; flips > 0; --flips)
            bytes.data()[random() % good.size()] = static_cast<uint8_t>(random());
        const auto [index, table] = compile(bytes);
        for (const auto *refusals : {&index.refusals(), &table.refusals()}) {
            for (const Refusal &refusal : *refusals) {
                EXPECT_NE(refusal.error.status, DWUNW_OK);
                EXPECT_LT(refusal.section_offset, good.size());
            }
            refused += !refusals->empty();
        }
        expect_rows(table, 0x1000, 0x1100);
    }
    EXPECT_GT(refused, 1000u);
}

TEST(Table, AnEmptyTableFindsNothing) {
    const Table table = Table::build({}, FdeList(), x86_64());
    EXPECT_EQ(table.lookup(LinkAddr(0x1000)).status, DWUNW_ERR_NO_CFI);
    EXPECT_EQ(table.row_at(LinkAddr(0x1000)).rule, nullptr);
    EXPECT_EQ(table.memory_bytes(), 0u);
}

// A function's rows by address, from the table and from its FDE.
void expect_all(const FrameSection &bytes, const Table &table) {
    const auto fdes = reference::read_eh_frame(bytes.data(), 0x100000);
    uint64_t at = 0;
    for (const reference::Fde &fde : fdes) {
        for (; at < fde.start; ++at)
            ASSERT_EQ(table.lookup(LinkAddr(at)).status, DWUNW_ERR_NO_CFI) << std::hex << at;
        for (size_t i = 0; i < fde.rows.size(); ++i) {
            const uint64_t end = i + 1 < fde.rows.size() ? fde.rows[i + 1].start : fde.end;
            const std::string expected = text_of(fde.rows[i], fde);
            for (; at < end; ++at) {
                const auto found = table.lookup(LinkAddr(at));
                ASSERT_EQ(found.status, DWUNW_OK) << std::hex << at;
                ASSERT_EQ(text_of(*found.rule), expected) << std::hex << at;
            }
        }
    }
    for (const uint64_t end = at + 0x20000; at < end; ++at)
        ASSERT_EQ(table.lookup(LinkAddr(at)).status, DWUNW_ERR_NO_CFI) << std::hex << at;
    expect_rows(table, 0, at);
}

TEST(Table, RowsAtEveryBorderOfTheFormat) {
    // Functions that begin and end at and around the borders of blocks and pages, with gaps of every length around what
    // a dictionary word can hold.
    FrameSection bytes;
    const size_t cie = bytes.cie();
    uint64_t start = 0x10000 - 3;
    for (uint64_t gap = 0; gap < 40; ++gap) {
        for (const uint64_t size : {1ull, 2ull, 15ull, 16ull, 17ull, 0x3feull, 0x400ull, 0x401ull}) {
            bytes.fde(cie, start, size, size > 1 ? Bytes().advance(1).def_cfa_offset(16 + 8 * (gap % 5)) : Bytes());
            start += size + gap;
        }
    }
    for (const uint64_t border : {0x40000ull, 0x80000ull, 0xc0000ull}) {
        bytes.fde(cie, border - 1, 1);
        bytes.fde(cie, border + 1, 0x400);
        bytes.fde(cie, border + 0xff00, 0x20000); // over a page in which nothing begins
    }
    bytes.end();
    expect_all(bytes, table_of(bytes));
}

TEST(Table, MoreRulesThanAPagesDictionaryHolds) {
    // 4,096 rules in one page, each for 16 bytes, some of them behind a gap; and then more than 12 bits can number.
    for (const uint64_t count : {62ull, 63ull, 64ull, 65ull, 4096ull, 9000ull}) {
        FrameSection bytes;
        const size_t cie = bytes.cie();
        for (uint64_t i = 0; i < count; ++i)
            bytes.fde(cie, 0x10000 + 16 * i, 16 - i % 4, Bytes().def_cfa_offset(16 + 8 * i));
        bytes.end();
        const Table table = table_of(bytes);
        EXPECT_EQ(table.rule_count(), count);
        expect_all(bytes, table);
    }
}

} // namespace
} // namespace dwunw::unwind
