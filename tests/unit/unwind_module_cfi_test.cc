// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/module_cfi.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <elf.h>

namespace dwunw::unwind {
namespace {

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
    EXPECT_EQ((*module)->table().fde_count(), 2u);
}

TEST(ModuleCfi, NothingToGoBy) {
    auto module = ModuleCfi::build({.machine = EM_X86_64});
    ASSERT_FALSE(module);
    EXPECT_EQ(module.error().status, DWUNW_ERR_NO_CFI);
    module = ModuleCfi::build({.eh_frame = SectionBytes(), .machine = EM_68K});
    ASSERT_FALSE(module);
    EXPECT_EQ(module.error().status, DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(module.error().value, uint64_t{EM_68K});
    module = ModuleCfi::build({.eh_frame = SectionBytes(), .machine = EM_X86_64});
    ASSERT_TRUE(module);
    EXPECT_EQ((*module)->table().row_count(), 0u);
}

TEST(ModuleCfi, TheEntryPointIsAFewInstructions) {
    auto module = ModuleCfi::build({.eh_frame = SectionBytes(), .entry = LinkAddr(0x1000), .machine = EM_X86_64});
    ASSERT_TRUE(module);
    EXPECT_TRUE((*module)->is_entry_point(LinkAddr(0x1000)));
    EXPECT_TRUE((*module)->is_entry_point(LinkAddr(0x1021)));
    EXPECT_FALSE((*module)->is_entry_point(LinkAddr(0xfff)));
    EXPECT_FALSE((*module)->is_entry_point(LinkAddr(0x1040)));
    // A library has none.
    module = ModuleCfi::build({.eh_frame = SectionBytes(), .machine = EM_X86_64});
    ASSERT_TRUE(module);
    EXPECT_FALSE((*module)->is_entry_point(LinkAddr(0)));
}

} // namespace
} // namespace dwunw::unwind
