// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/eh_frame_hdr.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

namespace dwunw::dwarf {
namespace {

using testing::Bytes;

constexpr uint64_t kAddress = 0x400000;

// version 1; .eh_frame's address, count and table in the encodings that linkers write
Bytes header(uint32_t count) {
    return Bytes({1, DW_EH_PE_pcrel | DW_EH_PE_sdata4, DW_EH_PE_udata4, DW_EH_PE_datarel | DW_EH_PE_sdata4})
        .u32(0x100)
        .u32(count);
}

LazySection section(const std::vector<uint8_t> &bytes) { return SectionBytes{bytes, LinkAddr(kAddress)}; }

// Where the FDE lies that the table leads to.
std::optional<LinkAddr> find(const EhFrameHdr &header, uint64_t address) {
    const auto until = header.count_until(LinkAddr(address));
    EXPECT_TRUE(until);
    if (*until == 0)
        return std::nullopt;
    return header.entry(*until - 1)->fde;
}

TEST(EhFrameHdr, FindsTheFdeThatBeginsAtOrBefore) {
    Bytes bytes = header(3);
    bytes.u32(static_cast<uint32_t>(-0x1000)).u32(0x200); // code before the section
    bytes.u32(0x1000).u32(0x220).u32(0x1010).u32(0x240);
    const LazySection of = section(bytes.data());
    const auto found = EhFrameHdr::parse(of);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->fde_count(), 3u);
    EXPECT_FALSE(find(*found, kAddress - 0x1001));
    EXPECT_EQ(find(*found, kAddress - 0x1000), LinkAddr(kAddress + 0x200));
    EXPECT_EQ(find(*found, kAddress + 0xfff), LinkAddr(kAddress + 0x200));
    EXPECT_EQ(find(*found, kAddress + 0x1000), LinkAddr(kAddress + 0x220));
    EXPECT_EQ(find(*found, kAddress + 0x100f), LinkAddr(kAddress + 0x220));
    EXPECT_EQ(find(*found, kAddress + 0x10000), LinkAddr(kAddress + 0x240));
    EXPECT_EQ(found->entry(0)->start, LinkAddr(kAddress - 0x1000));
    EXPECT_EQ(found->entry(2)->start, LinkAddr(kAddress + 0x1010));
}

TEST(EhFrameHdr, AnEmptyTableFindsNothing) {
    const LazySection of = section(header(0).data());
    const auto found = EhFrameHdr::parse(of);
    ASSERT_TRUE(found);
    EXPECT_FALSE(find(*found, kAddress));
}

TEST(EhFrameHdr, CutAnywhereOrOfAnotherForm) {
    Bytes bytes = header(2);
    bytes.u32(0).u32(0).u32(16).u32(16);
    ASSERT_TRUE(EhFrameHdr::parse(section(bytes.data())));
    const std::vector<uint8_t> good = bytes.data();
    for (size_t size = 0; size < bytes.size(); ++size)
        EXPECT_FALSE(EhFrameHdr::parse(section({good.begin(), good.begin() + static_cast<ptrdiff_t>(size)}))) << size;
    for (const auto &[at, value] : {std::pair{0, 2}, {2, 0xff}, {3, DW_EH_PE_absptr}, {3, 0xff}, {11, 0x7f}}) {
        bytes.data() = good;
        bytes.data()[static_cast<size_t>(at)] = static_cast<uint8_t>(value);
        EXPECT_FALSE(EhFrameHdr::parse(section(bytes.data()))) << at << " " << value;
    }
}

TEST(EhFrameHdr, UnsortedEntriesOnlyFindTheWrongOne) {
    Bytes bytes = header(4);
    for (const uint32_t start : {0x30u, 0x10u, 0x40u, 0x20u})
        bytes.u32(start).u32(0x200 + start);
    const LazySection of = section(bytes.data());
    const auto found = EhFrameHdr::parse(of);
    ASSERT_TRUE(found);
    for (uint64_t address = 0; address < 0x60; ++address)
        if (const auto fde = find(*found, kAddress + address)) {
            EXPECT_TRUE(*fde >= LinkAddr(kAddress + 0x210) && *fde <= LinkAddr(kAddress + 0x240));
        }
}

} // namespace
} // namespace dwunw::dwarf
