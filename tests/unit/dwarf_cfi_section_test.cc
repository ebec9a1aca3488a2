// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/cfi_section.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

namespace dwunw::dwarf {
namespace {

using testing::Bytes;
using testing::FrameSection;
using enum testing::Reg;
using Kind = CfiSection::Entry::Kind;

constexpr LinkAddr kAddress(0x100000);

CfiSection eh_frame(std::span<const uint8_t> bytes) {
    return {SectionKind::kEhFrame, bytes, kAddress, LinkAddr(), LinkAddr()};
}
CfiSection debug_frame(std::span<const uint8_t> bytes) {
    return {SectionKind::kDebugFrame, bytes, LinkAddr(), LinkAddr(), LinkAddr()};
}

// A CIE of .eh_frame from the version byte on.
Bytes cie_entry(const Bytes &body) { return Bytes().u32(4 + body.size()).u32(0).add(body); }

Result<Cie> parse_cie(const Bytes &body) {
    const Bytes entry = cie_entry(body);
    const CfiSection section = eh_frame(entry.data());
    auto found = section.entry_at(0);
    if (!found)
        return found.error();
    return section.parse_cie(*found);
}

TEST(CfiSection, WalksItsEntries) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    const size_t first = bytes.fde(cie, 0x1000, 0x10);
    const size_t second = bytes.fde(cie, 0x2000, 0x20, Bytes().advance(1));
    bytes.end();
    const CfiSection section = eh_frame(bytes.data());
    auto entry = section.entry_at(0);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kCie);
    EXPECT_EQ(entry->next, first);
    entry = section.entry_at(first);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kFde);
    EXPECT_EQ(entry->cie_offset, cie);
    EXPECT_EQ(entry->next, second);
    entry = section.entry_at(section.entry_at(second)->next);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kEnd); // the zero terminator
    EXPECT_EQ(section.entry_at(bytes.data().size())->kind, Kind::kEnd);
    EXPECT_FALSE(section.entry_at(bytes.data().size() + 1));

    const auto fde = section.fde_at(second);
    ASSERT_TRUE(fde);
    EXPECT_EQ(fde->start, LinkAddr(0x2000));
    EXPECT_EQ(fde->end, LinkAddr(0x2020));
    EXPECT_EQ(fde->cie.offset, cie);
    EXPECT_EQ(fde->instructions[0], DW_CFA_advance_loc | 1);
    EXPECT_EQ(bytes.data()[fde->instructions_offset], DW_CFA_advance_loc | 1);
    EXPECT_FALSE(section.fde_at(cie));
}

TEST(CfiSection, ACiesFields) {
    const auto cie = parse_cie(Bytes().u8(1).text("zPLRS").uleb(4).sleb(-8).u8(RIP).block(
        Bytes().u8(DW_EH_PE_udata4).u32(0x1234).u8(DW_EH_PE_sdata4).u8(DW_EH_PE_pcrel | DW_EH_PE_sdata4)));
    ASSERT_TRUE(cie);
    EXPECT_EQ(cie->version, 1);
    EXPECT_EQ(cie->code_alignment, 4u);
    EXPECT_EQ(cie->data_alignment, -8);
    EXPECT_EQ(cie->return_address_register, uint64_t{RIP});
    EXPECT_TRUE(cie->has_augmentation_data);
    EXPECT_TRUE(cie->signal_frame);
    EXPECT_EQ(cie->fde_encoding, DW_EH_PE_pcrel | DW_EH_PE_sdata4);
    EXPECT_TRUE(cie->instructions.empty());
}

TEST(CfiSection, NoEntriesBehindTheTerminator) {
    FrameSection bytes;
    bytes.end();
    const size_t cie = bytes.cie();
    const auto entry = eh_frame(bytes.data()).entry_at(0);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kEnd);
    EXPECT_FALSE(eh_frame(bytes.data()).fde_at(0));
    EXPECT_EQ(eh_frame(bytes.data()).entry_at(cie)->kind, Kind::kCie);
}

TEST(CfiSection, OnlyKnownAugmentationsAreRead) {
    const auto with = [](const std::string &augmentation, const Bytes &data) {
        Bytes body = Bytes().u8(1).text(augmentation);
        if (augmentation.starts_with("eh"))
            body.u64(0);
        body.uleb(1).sleb(-8).u8(RIP);
        return parse_cie(augmentation.find('z') != std::string::npos ? body.block(data) : body);
    };
    EXPECT_TRUE(with("", {}));
    EXPECT_TRUE(with("z", {}));
    EXPECT_TRUE(with("zR", {0x1b}));
    EXPECT_TRUE(with("zL", {0x1b}));
    EXPECT_TRUE(with("eh", {}));
    EXPECT_TRUE(with("ehzR", {0x1b}));
    EXPECT_TRUE(with("zR", {0x1b, 1, 2, 3})); // data that no letter explains is passed over
    const auto signal = with("S", {});
    ASSERT_TRUE(signal);
    EXPECT_TRUE(signal->signal_frame);
    // Each may change what rows mean, or has data of unknown length.
    EXPECT_FALSE(with("zB", {0}));
    EXPECT_FALSE(with("zRX", {0x1b, 0}));
    EXPECT_FALSE(with("R", {}));
    EXPECT_FALSE(with("armcc+", {}));
    EXPECT_FALSE(with("zR", {}));                   // the data ends before its letter's byte
    EXPECT_FALSE(with("zP", {DW_EH_PE_sdata4, 1})); // and in the midst of it
    EXPECT_FALSE(with("zP", {0x0f, 0, 0, 0, 0}));   // a pointer of a form that is none
}

TEST(CfiSection, OnlyKnownVersionsAreRead) {
    EXPECT_TRUE(parse_cie(Bytes().u8(3).text("").uleb(1).sleb(-8).uleb(RIP)));
    // One byte in version 1, a number of any length since.
    EXPECT_EQ(parse_cie(Bytes().u8(1).text("").uleb(1).sleb(-8).u8(0x90).u8(0))->return_address_register, 0x90u);
    EXPECT_EQ(parse_cie(Bytes().u8(3).text("").uleb(1).sleb(-8).uleb(0x90).u8(0))->return_address_register, 0x90u);
    EXPECT_TRUE(parse_cie(Bytes().u8(4).text("").u8(8).u8(0).uleb(1).sleb(-8).uleb(RIP)));
    EXPECT_FALSE(parse_cie(Bytes().u8(4).text("").u8(4).u8(0).uleb(1).sleb(-8).uleb(RIP))); // 4-byte addresses
    EXPECT_FALSE(parse_cie(Bytes().u8(4).text("").u8(8).u8(2).uleb(1).sleb(-8).uleb(RIP))); // segments
    for (const int version : {0, 2, 5, 255})
        EXPECT_FALSE(parse_cie(Bytes().u8(static_cast<uint64_t>(version)).text("").uleb(1).sleb(-8).uleb(RIP)));
}

TEST(CfiSection, ACieTooLongToBeReal) {
    Bytes body = Bytes().u8(1).text("").uleb(1).sleb(-8).u8(RIP);
    while (body.size() < 1024)
        body.u8(DW_CFA_nop);
    EXPECT_TRUE(parse_cie(body));
    const auto cie = parse_cie(body.u8(DW_CFA_nop));
    ASSERT_FALSE(cie);
    EXPECT_EQ(cie.error().status, DWUNW_ERR_LIMIT);
}

TEST(CfiSection, SixtyFourBitLengths) {
    const Bytes cie_body = Bytes().u8(1).text("").uleb(1).sleb(-8).u8(RIP);
    // .eh_frame: the id stays 4 bytes wide.
    const Bytes in_eh_frame = Bytes().u32(0xffffffff).u64(4 + cie_body.size()).u32(0).add(cie_body);
    auto entry = eh_frame(in_eh_frame.data()).entry_at(0);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kCie);
    EXPECT_EQ(entry->next, in_eh_frame.size());
    EXPECT_TRUE(eh_frame(in_eh_frame.data()).parse_cie(*entry));
    // .debug_frame: 8 bytes.
    const Bytes in_debug_frame = Bytes().u32(0xffffffff).u64(8 + cie_body.size()).u64(~uint64_t{0}).add(cie_body);
    entry = debug_frame(in_debug_frame.data()).entry_at(0);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kCie);
    EXPECT_TRUE(debug_frame(in_debug_frame.data()).parse_cie(*entry));
    // A length that would wrap.
    EXPECT_FALSE(eh_frame(Bytes().u32(0xffffffff).u64(~uint64_t{0}).u32(0).data()).entry_at(0));
}

TEST(CfiSection, DebugFrameHasAbsoluteCiePointers) {
    FrameSection bytes(true);
    const size_t cie = bytes.cie();
    const size_t offset = bytes.fde(cie, 0x1000, 0x10);
    const auto fde = debug_frame(bytes.data()).fde_at(offset);
    ASSERT_TRUE(fde);
    EXPECT_EQ(fde->start, LinkAddr(0x1000));
    EXPECT_EQ(fde->end, LinkAddr(0x1010));
    // Zero words between object files are padding, not the end.
    Bytes padded = Bytes().u32(0).u32(0);
    padded.data().insert(padded.data().end(), bytes.data().begin(), bytes.data().end());
    const auto entry = debug_frame(padded.data()).entry_at(0);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->kind, Kind::kCie);
    EXPECT_EQ(entry->offset, 8u);
}

TEST(CfiSection, PcRelativePointers) {
    FrameSection bytes;
    const size_t cie = bytes.cie(testing::usual_cie_instructions(), "zR", DW_EH_PE_pcrel | DW_EH_PE_sdata4);
    // By hand: 4-byte fields.
    Bytes fde;
    const size_t offset = bytes.data().size();
    const size_t pointer_at = offset + 8;
    fde.u32(13)
        .u32(offset + 4 - cie)
        .u32(static_cast<uint32_t>(0x1000 - (kAddress.value + pointer_at)))
        .u32(0x10)
        .u8(0);
    bytes.data().insert(bytes.data().end(), fde.data().begin(), fde.data().end());
    const auto parsed = eh_frame(bytes.data()).fde_at(offset);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->start, LinkAddr(0x1000));
    EXPECT_EQ(parsed->end, LinkAddr(0x1010));
}

TEST(CfiSection, MalformedFdesAreRefused) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    const size_t wraps = bytes.fde(cie, ~uint64_t{0} - 4, 0x10);
    EXPECT_EQ(eh_frame(bytes.data()).fde_at(wraps).error().status, DWUNW_ERR_CFI_MALFORMED);
    // A CIE pointer before the section's start, and one to the FDE itself.
    for (const uint64_t pointer : {uint64_t{0x10000}, uint64_t{4}}) {
        const Bytes fde = Bytes().u32(24).u32(pointer).u64(0x1000).u64(0x10).u32(0);
        EXPECT_FALSE(eh_frame(fde.data()).fde_at(0)) << pointer;
    }
}

TEST(CfiSection, EntriesHaveTheirKinds) {
    // Each could be read as the other: an address of 1 looks like a version.
    FrameSection bytes;
    const size_t cie_offset = bytes.cie(Bytes().u64(0).u64(0));
    const size_t fde_offset = bytes.fde(cie_offset, 1, 0, Bytes().u64(0).u64(0));
    const CfiSection section = eh_frame(bytes.data());
    const auto cie = section.entry_at(cie_offset);
    const auto fde = section.entry_at(fde_offset);
    ASSERT_TRUE(cie && fde);
    EXPECT_EQ(section.parse_cie(*fde).error().value, fde_offset);
    EXPECT_EQ(section.parse_fde(*cie, *section.parse_cie(*cie)).error().value, cie_offset);
    EXPECT_EQ(section.fde_at(cie_offset).error().value, cie_offset);
    EXPECT_EQ(section.fde_at(fde_offset)->start, section.fde_at(fde_offset)->end);
}

TEST(CfiSection, InstructionsBeginBehindTheAugmentationData) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    const size_t offset = bytes.data().size();
    const Bytes lsda = Bytes().u32(0x3f3f3f3f);
    const Bytes instructions = Bytes().advance(1).def_cfa_offset(16);
    const Bytes body = Bytes().u32(offset + 4 - cie).u64(0x1000).u64(0x10).block(lsda).add(instructions);
    const Bytes fde = Bytes().u32(body.size()).add(body);
    bytes.data().insert(bytes.data().end(), fde.data().begin(), fde.data().end());
    const auto parsed = eh_frame(bytes.data()).fde_at(offset);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(std::vector<uint8_t>(parsed->instructions.begin(), parsed->instructions.end()), instructions.data());
    EXPECT_EQ(parsed->instructions_offset, bytes.data().size() - instructions.size());
}

// An entry's length is its border, though the section goes on behind it.
TEST(CfiSection, EntriesThatEndTooSoon) {
    for (uint64_t length = 1; length < 4; ++length) {
        const Bytes section = Bytes().u32(length).u64(0).u64(0);
        EXPECT_EQ(eh_frame(section.data()).entry_at(0).error().status, DWUNW_ERR_CFI_MALFORMED) << length;
        EXPECT_EQ(debug_frame(section.data()).entry_at(0).error().status, DWUNW_ERR_CFI_MALFORMED) << length;
    }
    const Bytes wide = Bytes().u32(0xffffffff).u64(7).u64(0).u64(0);
    EXPECT_FALSE(debug_frame(wide.data()).entry_at(0));
    const Bytes empty = Bytes().u32(4).u32(0); // an entry, but of what?
    for (const CfiSection &section : {eh_frame(empty.data()), debug_frame(empty.data())}) {
        ASSERT_TRUE(section.entry_at(0));
        EXPECT_FALSE(section.parse_cie(*section.entry_at(0)));
    }

    FrameSection bytes;
    const size_t cie = bytes.cie({}, "zR");
    const size_t offset = bytes.fde(cie, 0x1000, 0x10);
    const auto with_length = [&](size_t entry, uint32_t length) {
        std::vector<uint8_t> changed = bytes.data();
        std::memcpy(changed.data() + entry, &length, sizeof(length));
        return eh_frame(changed).fde_at(offset).ok();
    };
    // id, start, length, the augmentation data's length: 21 bytes.
    for (uint32_t length = 0; length < 24; ++length)
        EXPECT_EQ(with_length(offset, length), length >= 21) << length;
    // id, version, "zR", alignments, the return address, one byte of data and its length: 13 bytes.
    for (uint32_t length = 0; length < 16; ++length)
        EXPECT_EQ(with_length(cie, length), length >= 13) << length;
}

TEST(CfiSection, ACieThatCannotBeRead) {
    // The FDE's pointer leads to a length that leaves the section.
    const Bytes section = Bytes().u32(0x1000).u32(24).u32(8).u64(0x1000).u64(0x10).u32(0);
    const auto fde = eh_frame(section.data()).fde_at(4);
    ASSERT_FALSE(fde);
    EXPECT_EQ(fde.error().value, 0u);
}

TEST(CfiSection, CutAnywhereIsMalformed) {
    FrameSection bytes;
    const size_t cie = bytes.cie();
    const size_t offset = bytes.fde(cie, 0x1000, 0x10, Bytes().advance(1).def_cfa_offset(16));
    for (size_t size = 0; size < bytes.data().size(); ++size) {
        const std::vector<uint8_t> cut(bytes.data().begin(), bytes.data().begin() + static_cast<ptrdiff_t>(size));
        const auto fde = eh_frame(cut).fde_at(offset);
        ASSERT_FALSE(fde) << size;
        EXPECT_EQ(fde.error().status, DWUNW_ERR_CFI_MALFORMED) << size;
    }
    EXPECT_TRUE(eh_frame(bytes.data()).fde_at(offset));
}

} // namespace
} // namespace dwunw::dwarf
