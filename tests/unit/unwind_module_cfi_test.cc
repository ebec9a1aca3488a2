// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/module_cfi.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <elf.h>

namespace dwunw::unwind {
namespace {

using testing::Bytes;
using testing::FrameSection;

SectionBytes bytes_of(const FrameSection &section) { return {section.data(), LinkAddr(0x100000)}; }

TEST(ModuleCfi, FindsFdesInBothSections) {
    FrameSection eh_frame;
    const size_t in_eh_frame = eh_frame.fde(eh_frame.cie(), 0x1000, 0x10);
    FrameSection debug_frame(true);
    const size_t in_debug_frame = debug_frame.fde(debug_frame.cie(), 0x2000, 0x10);
    auto module =
        ModuleCfi::build({.eh_frame = bytes_of(eh_frame), .debug_frame = bytes_of(debug_frame), .machine = EM_X86_64});
    ASSERT_TRUE(module);

    auto found = (*module)->find_fde(LinkAddr(0x100f));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->fde.offset, in_eh_frame);
    EXPECT_EQ(found->fde.start, LinkAddr(0x1000));
    EXPECT_EQ(found->fde.end, LinkAddr(0x1010));
    EXPECT_EQ(found->section.size(), eh_frame.data().size());
    found = (*module)->find_fde(LinkAddr(0x2000));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->fde.offset, in_debug_frame);
    EXPECT_EQ(found->section.size(), debug_frame.data().size());
    for (const uint64_t pc : {0xfffull, 0x1010ull, 0x2010ull}) {
        found = (*module)->find_fde(LinkAddr(pc));
        ASSERT_FALSE(found);
        EXPECT_EQ(found.error().status, DWUNW_ERR_NO_CFI);
    }
    EXPECT_EQ((*module)->table(), nullptr);
    EXPECT_EQ((*(*module)->compile())->fde_count(), 2u);
    EXPECT_NE((*module)->table(), nullptr);
}

std::unique_ptr<ModuleCfi> module_of(const FrameSection &eh_frame, const Bytes &header = {}) {
    CfiInput input{.eh_frame = bytes_of(eh_frame), .machine = EM_X86_64};
    if (header.size() != 0)
        input.eh_frame_hdr = SectionBytes{header.data(), LinkAddr(0x90000)};
    auto module = ModuleCfi::build(std::move(input));
    EXPECT_TRUE(module);
    return std::move(*module);
}

// Before there is a table, an FDE says the same as the table will.
TEST(ModuleCfi, OneFdeAgreesWithTheTable) {
    FrameSection section;
    const size_t cie = section.cie();
    section.fde(cie, 0x1000, 0x40, Bytes().advance(4).def_cfa_offset(16).advance(8).def_cfa_offset(8));
    section.fde(cie, 0x1040, 0x10, Bytes().advance(4).u8(0x3f)); // refused whole
    section.fde(cie, 0x1080, 0x10, Bytes().offset(testing::RBP, 2));
    section.fde(cie, 0x1100, 0x10, Bytes().advance(4).def_cfa_offset(uint64_t{1} << 31)); // does not fit a rule
    const auto by_fde = module_of(section);
    const auto by_table = module_of(section);
    ASSERT_TRUE(by_table->compile());
    for (uint64_t pc = 0xff0; pc < 0x1120; ++pc) {
        const auto one = by_fde->rule_at(LinkAddr(pc));
        const auto other = by_table->rule_at(LinkAddr(pc));
        EXPECT_EQ(by_fde->table(), nullptr);
        if (other.status == DWUNW_ERR_NO_CFI) {
            EXPECT_EQ(one.end == LinkAddr(pc + 1), other.end == LinkAddr(pc + 1)) << std::hex << pc;
        }
        if (other.status == DWUNW_ERR_CFI_MALFORMED) {
            EXPECT_NE(one.status, DWUNW_OK) << std::hex << pc;
            continue;
        }
        EXPECT_EQ(one.status, other.status) << std::hex << pc;
        EXPECT_EQ(one.rule, other.rule) << std::hex << pc;
        EXPECT_GT(one.end, LinkAddr(pc));
    }
    EXPECT_EQ(by_fde->rule_at(LinkAddr(0x1003)).end, LinkAddr(0x1004));
    EXPECT_EQ(by_fde->rule_at(LinkAddr(0x100c)).end, LinkAddr(0x1040));
}

// .eh_frame_hdr is a claim: if it names the wrong FDE, or none, the right one is still found.
TEST(ModuleCfi, AHeaderThatLies) {
    FrameSection section;
    const size_t cie = section.cie();
    const size_t first = section.fde(cie, 0x1000, 0x10);
    const size_t second = section.fde(cie, 0x2000, 0x10, Bytes().def_cfa_offset(32));
    const auto header = [&](std::initializer_list<std::pair<uint64_t, uint64_t>> entries) {
        Bytes bytes(
            {1, dwarf::DW_EH_PE_omit, dwarf::DW_EH_PE_udata4, dwarf::DW_EH_PE_datarel | dwarf::DW_EH_PE_sdata4});
        bytes.u32(entries.size());
        for (const auto &[start, fde] : entries)
            bytes.u32(static_cast<uint32_t>(start - 0x90000)).u32(static_cast<uint32_t>(0x100000 + fde - 0x90000));
        return bytes;
    };
    for (const Bytes &claim : {header({{0x1000, first}, {0x2000, second}}), header({{0x1000, second}, {0x2000, first}}),
                               header({}), header({{0x1000, first + 3}, {0x2000, 0x7000000}}),
                               header({{0x1000, cie}, {0x2000, cie}}), header({{0x2000, second}, {0x1000, first}})}) {
        const auto module = module_of(section, claim);
        EXPECT_EQ(module->rule_at(LinkAddr(0x1005)).status, DWUNW_OK);
        EXPECT_EQ(module->rule_at(LinkAddr(0x1005)).rule.cfa_offset, 8);
        EXPECT_EQ(module->rule_at(LinkAddr(0x2005)).rule.cfa_offset, 32);
        for (const uint64_t pc : {0xfffull, 0x1010ull, 0x2010ull})
            EXPECT_EQ(module->rule_at(LinkAddr(pc)).status, DWUNW_ERR_NO_CFI) << std::hex << pc;
        ASSERT_TRUE(module->compile());
        EXPECT_EQ(module->rule_at(LinkAddr(0x2005)).rule.cfa_offset, 32);
        EXPECT_EQ(module->find_fde(LinkAddr(0x2005))->fde.offset, second);
    }
}

TEST(ModuleCfi, BuildNeedsCfiAndAKnownArchitecture) {
    auto module = ModuleCfi::build({.machine = EM_X86_64});
    ASSERT_FALSE(module);
    EXPECT_EQ(module.error().status, DWUNW_ERR_NO_CFI);
    module = ModuleCfi::build({.eh_frame = SectionBytes(), .machine = EM_68K});
    ASSERT_FALSE(module);
    EXPECT_EQ(module.error().status, DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(module.error().value, uint64_t{EM_68K});
    module = ModuleCfi::build({.eh_frame = SectionBytes(), .machine = EM_X86_64});
    ASSERT_TRUE(module);
    EXPECT_EQ((*(*module)->compile())->fde_count(), 0u);
    EXPECT_EQ((*module)->rule_at(LinkAddr(0x1000)).status, DWUNW_ERR_NO_CFI);
}

} // namespace
} // namespace dwunw::unwind
