// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/fde_list.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>

namespace dwunw::unwind {
namespace {

using testing::Bytes;
using testing::FrameSection;

dwarf::CfiSection section_of(const FrameSection &bytes, dwarf::SectionKind kind = dwarf::SectionKind::kEhFrame) {
    return {kind, bytes.data(), LinkAddr(0x100000), LinkAddr(), LinkAddr()};
}

FdeList index_of(const FrameSection &bytes) {
    const auto section = section_of(bytes);
    return FdeList(std::span(&section, 1));
}

std::vector<uint64_t> starts(const FdeList &index) {
    std::vector<uint64_t> result;
    for (const FdeRef &fde : index.fdes())
        result.push_back(fde.start.value);
    return result;
}

TEST(FdeList, UnsortedFdesAreSorted) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    for (const uint64_t start : {0x3000ull, 0x1000ull, 0x2000ull})
        bytes.fde(cie, start, 0x100);
    const FdeList index = index_of(bytes);
    EXPECT_EQ(starts(index), (std::vector<uint64_t>{0x1000, 0x2000, 0x3000}));
    ASSERT_NE(index.find(LinkAddr(0x20ff)), nullptr);
    EXPECT_EQ(index.find(LinkAddr(0x20ff))->start, LinkAddr(0x2000));
    for (const uint64_t pc : {0xfffull, 0x1100ull, 0x3100ull})
        EXPECT_EQ(index.find(LinkAddr(pc)), nullptr) << std::hex << pc;
    EXPECT_EQ(index.next_start(LinkAddr(0)), LinkAddr(0x1000));
    EXPECT_EQ(index.next_start(LinkAddr(0x1000)), LinkAddr(0x2000));
    EXPECT_EQ(index.next_start(LinkAddr(0x3000)), LinkAddr(~uint64_t{0}));
}

TEST(FdeList, TombstonesAndRepetitions) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    bytes.fde(cie, 0, 0x10);
    const size_t first = bytes.fde(cie, 0x1000, 0x10);
    bytes.fde(cie, 0x1000, 0x20);
    bytes.fde(cie, 0x2000, 0);
    const FdeList index = index_of(bytes);
    EXPECT_EQ(index.tombstone_count(), 2u);
    ASSERT_EQ(index.fdes().size(), 1u);
    EXPECT_EQ(index.fdes()[0].offset, first);
    EXPECT_EQ(index.fdes()[0].end, LinkAddr(0x1010));
}

TEST(FdeList, ALaterSectionFillsTheGaps) {
    FrameSection eh_frame;
    const size_t eh_cie = eh_frame.cie();
    eh_frame.fde(eh_cie, 0x1000, 0x10);
    eh_frame.fde(eh_cie, 0x3000, 0x10);
    FrameSection debug_frame(true);
    const size_t cie = debug_frame.cie();
    for (const uint64_t start : {0xff8ull, 0x1008ull, 0x1010ull, 0x2ff8ull, 0x2000ull})
        debug_frame.fde(cie, start, 0x10);
    const std::array sections = {section_of(eh_frame), section_of(debug_frame, dwarf::SectionKind::kDebugFrame)};
    const FdeList index{sections};
    EXPECT_EQ(starts(index), (std::vector<uint64_t>{0x1000, 0x1010, 0x2000, 0x3000}));
    EXPECT_EQ(index.fdes()[0].section, 0u);
    EXPECT_EQ(index.fdes()[1].section, 1u);
    EXPECT_EQ(index.cies().size(), 2u);
}

TEST(FdeList, EachRefusalHasItsReason) {
    FrameSection bytes;
    const size_t bad_cie = bytes.cie(testing::usual_cie_instructions(), "zRx");
    const size_t of_bad_cie = bytes.fde(bad_cie, 0x1000, 0x10);
    const size_t cie = bytes.cie();
    const size_t wraps = bytes.fde(cie, ~uint64_t{0} - 4, 0x10);
    bytes.fde(cie, 0x2000, 0x10);
    bytes.data().push_back(1); // a length that is cut off
    const FdeList index = index_of(bytes);
    EXPECT_EQ(starts(index), std::vector<uint64_t>{0x2000});
    std::vector<size_t> offsets;
    for (const Refusal &refusal : index.refusals()) {
        EXPECT_EQ(refusal.error.status, DWUNW_ERR_CFI_MALFORMED);
        offsets.push_back(refusal.section_offset);
    }
    EXPECT_EQ(offsets, (std::vector<size_t>{bad_cie, of_bad_cie, wraps, bytes.data().size() - 1}));
}

TEST(FdeList, WithoutSectionsThereAreNoFdes) {
    const FdeList index;
    EXPECT_EQ(index.find(LinkAddr(0)), nullptr);
    EXPECT_EQ(index.find(LinkAddr(~uint64_t{0})), nullptr);
    EXPECT_TRUE(FdeList(std::span<const dwarf::CfiSection>()).fdes().empty());
}

// Many, in any order: those of one start stay in the order they came in, and the first of them stands.
TEST(FdeList, ManyInAnyOrder) {
    for (const uint64_t apart : {uint64_t{0x20}, uint64_t{1} << 24}) { // within 4 GiB, and not
        FrameSection section;
        const size_t cie = section.cie();
        std::map<uint64_t, size_t> expected;
        std::mt19937_64 random(apart);
        for (int i = 0; i < 5000; ++i) {
            const uint64_t start = 0x10000 + random() % 4000 * apart;
            const size_t offset = section.fde(cie, start, 0x10);
            expected.emplace(start, offset);
        }
        const dwarf::CfiSection view(dwarf::SectionKind::kEhFrame, section.data(), LinkAddr(0x100000), LinkAddr(),
                                     LinkAddr());
        const FdeList index(std::span(&view, 1));
        ASSERT_EQ(index.fdes().size(), expected.size());
        size_t i = 0;
        for (const auto &[start, offset] : expected) {
            EXPECT_EQ(index.fdes()[i].start, LinkAddr(start));
            EXPECT_EQ(index.fdes()[i].offset, offset);
            ++i;
        }
    }
}

// A .debug_frame of 24-byte FDEs, from 1 MiB of file to 32 MiB of this and 32 bytes each in a list: those at one
// address are one, in whatever order they come.
TEST(FdeList, FdesAtOneAddressAreNotKept) {
    constexpr size_t kMany = kMaxListed + kMaxListed / 4;
    for (const uint64_t addresses : {1, 2, 1000}) {
        FrameSection section(true);
        const size_t cie = section.cie();
        for (size_t i = 0; i < kMany; ++i)
            section.fde(cie, 0x1000 + (kMany - i) % addresses * 0x10, 0x10);
        const auto view = section_of(section, dwarf::SectionKind::kDebugFrame);
        const FdeList index(std::span(&view, 1));
        EXPECT_EQ(index.fdes().size(), addresses);
        EXPECT_LE(index.most_listed(), kMaxListed);
        EXPECT_EQ(index.refusal_count(), 0u);
        // The first of each stands.
        for (const FdeRef &fde : index.fdes())
            EXPECT_LT(fde.offset, 20 + 24 * (addresses + 1));
    }
}

// So are refusals, which are counted, and CIEs.
TEST(FdeList, RefusalsAreCountedAndTheFirstAreKept) {
    FrameSection section;
    const size_t bad_cie = section.cie(testing::usual_cie_instructions(), "zRx");
    constexpr size_t kMany = 3 * kMaxRefusals;
    for (size_t i = 0; i < kMany; ++i)
        section.fde(bad_cie, 0x1000 + i * 0x10, 0x10);
    const FdeList index = index_of(section);
    EXPECT_EQ(index.refusal_count(), kMany + 1);
    ASSERT_EQ(index.refusals().size(), kMaxRefusals);
    EXPECT_EQ(index.refusals()[0].section_offset, bad_cie);
    EXPECT_TRUE(index.fdes().empty());
}

TEST(FdeList, MoreCiesThanThereAreAreALimit) {
    FrameSection section;
    constexpr size_t kMany = kMaxCies + 10;
    for (size_t i = 0; i < kMany; ++i)
        section.fde(section.cie(), 0x1000 + i * 0x10, 0x10);
    const FdeList index = index_of(section);
    EXPECT_EQ(index.cies().size(), kMaxCies);
    EXPECT_EQ(index.fdes().size(), kMaxCies);
    ASSERT_FALSE(index.refusals().empty());
    EXPECT_EQ(index.refusals()[0].error.status, DWUNW_ERR_LIMIT);
    EXPECT_EQ(index.refusal_count(), 20u); // each CIE and its FDE
}

} // namespace
} // namespace dwunw::unwind
