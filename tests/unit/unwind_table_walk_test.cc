// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Where the signal handler's walk ends, and with what. That its frames are walk()'s is in unwind_walk_test, whose every
// stack it walks, too.
#include "unwind/table_walk.h"

#include "support/fake_space.h"

#include <gtest/gtest.h>

#include <array>

namespace dwunw::unwind {
namespace {

using namespace dwarf; // NOLINT(google-build-using-namespace): opcodes
using testing::Bytes;
using testing::FakeSpace;
using testing::FakeStack;
using testing::FakeTables;
using testing::FrameSection;
using testing::registers;
using testing::x86_64;
using enum testing::Reg;

constexpr uint64_t kModule = 0x400000;
constexpr uint64_t kUprobes = 0x7fffffffe000;
constexpr uint64_t kStack = 0x7ff000;
constexpr uint64_t kSp = kStack + 128;

enum Function : uint64_t {
    kLeaf = 0x1000,   // CFA = rsp+8
    kRoot = 0x1100,   // the return address is undefined
    kByRbx = 0x1200,  // CFA = rbx+16
    kSignal = 0x1300, // a signal frame
    kNoCfi = 0x1400,  // none covers it
    kEnd = 0x1fff,    // the mapping's last byte, and more of the file: CFA = rsp+8
};

class TableWalk : public ::testing::Test {
  protected:
    TableWalk() {
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, kLeaf, 0x100);
        section.fde(cie, kRoot, 0x100, Bytes({DW_CFA_undefined, RIP}));
        section.fde(cie, kByRbx, 0x100, Bytes().def_cfa(RBX, 16));
        section.fde(cie, kEnd, 0x11);
        const size_t signal_cie = section.cie(testing::usual_cie_instructions(), "zRS");
        section.fde(signal_cie, kSignal, 0x100);
        space_.add_module(kModule, 0x2000, section);
        space_.add_other(CodeKind::kUprobeTrampoline, kUprobes, 0x1000);
        space_.compile();
    }

    WalkResult walk(uint64_t pc, size_t room = 8) {
        const FakeTables tables(space_);
        return walk_by_tables({tables, x86_64(), registers({{RIP, kModule + pc}, {RSP, kSp}, {RBP, 0}, {RBX, kSp}}),
                               stack_.memory(), std::span(frames_).first(room)});
    }
    // From the leaf, which returns to `outer`.
    WalkResult walk_through(uint64_t outer) {
        stack_.set(kSp, outer);
        return walk(kLeaf);
    }

    FakeSpace space_;
    FakeStack stack_{kStack, 64};
    std::array<dwunw_frame, 8> frames_{};
};

TEST_F(TableWalk, EndsAtAnUndefinedReturnAddressOrAZero) {
    WalkResult result = walk_through(kModule + kRoot + 0x20);
    EXPECT_EQ(result.status, DWUNW_OK);
    ASSERT_EQ(result.written, 2u);
    EXPECT_EQ(frames_[0].flags, DWUNW_FRAME_FLAG_EXACT_PC);
    EXPECT_EQ(frames_[0].source, DWUNW_SOURCE_REGISTERS);
    EXPECT_EQ(frames_[0].cfa, kSp + 8);
    EXPECT_EQ(frames_[1].pc, kModule + kRoot + 0x20);
    EXPECT_EQ(frames_[1].sp, kSp + 8);
    EXPECT_EQ(frames_[1].flags, 0u);
    EXPECT_EQ(frames_[1].source, DWUNW_SOURCE_CFI);
    EXPECT_EQ(frames_[1].module_offset, kRoot + 0x20u);
    result = walk_through(0);
    EXPECT_EQ(result.status, DWUNW_OK);
    EXPECT_EQ(result.written, 1u);
}

TEST_F(TableWalk, AnotherRegistersCfaIsFrameZerosAlone) {
    stack_.set(kSp + 8, kModule + kRoot + 0x20);
    EXPECT_EQ(walk(kByRbx).status, DWUNW_OK);
    const WalkResult result = walk_through(kModule + kByRbx + 0x20);
    EXPECT_EQ(result.status, DWUNW_ERR_WOULD_BLOCK);
    EXPECT_EQ(result.written, 2u);
}

TEST_F(TableWalk, WhatATableDoesNotSayIsLeftToOthers) {
    EXPECT_EQ(walk(0x3000).status, DWUNW_ERR_WOULD_BLOCK);
    EXPECT_EQ(walk(0x3000).written, 0u) << "no module there";
    for (const uint64_t outer : {kModule + kNoCfi + 0x20, kModule + kSignal + 0x20}) {
        const WalkResult result = walk_through(outer);
        EXPECT_EQ(result.status, DWUNW_ERR_WOULD_BLOCK) << outer;
        EXPECT_EQ(result.written, 2u) << outer;
    }
    // No frames: a uprobe's trampoline, memory that is no code.
    for (const uint64_t outer : {kUprobes + 1, uint64_t{0x1234}}) {
        const WalkResult result = walk_through(outer);
        EXPECT_EQ(result.status, DWUNW_ERR_WOULD_BLOCK) << outer;
        EXPECT_EQ(result.written, 1u) << outer;
    }
    // A return address at a function's end, with other rules behind it: whether a call ends there, the code says.
    EXPECT_EQ(walk_through(kModule + kRoot).status, DWUNW_ERR_WOULD_BLOCK);
    // At the mapping's end.
    EXPECT_EQ(walk_through(kModule + 0x2000).status, DWUNW_ERR_WOULD_BLOCK);
}

TEST_F(TableWalk, ATableThatIsNotCompiledYetIsNotWaitedFor) {
    FrameSection section;
    section.fde(section.cie(), 0x100, 0x100);
    space_.add_module(0x800000, 0x1000, section);
    EXPECT_EQ(walk_through(0x800120).status, DWUNW_ERR_WOULD_BLOCK);
}

TEST_F(TableWalk, TheSlicesEndAndTheRoomsEnd) {
    const FakeTables tables(space_);
    const auto regs = registers({{RIP, kModule + kLeaf}, {RSP, kSp}});
    const WalkResult cut = walk_by_tables({tables, x86_64(), regs, stack_.memory(128), std::span(frames_)});
    EXPECT_EQ(cut.status, DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(cut.written, 1u);
    stack_.set(kSp, kModule + kRoot + 0x20);
    const WalkResult full = walk(kLeaf, 1);
    EXPECT_EQ(full.status, DWUNW_ERR_FRAME_LIMIT);
    EXPECT_EQ(full.written, 1u);
}

TEST_F(TableWalk, ALoopEnds) {
    // CFA = rsp+8 goes up at each step, so that a stack of one return address ends with the room or the slice.
    for (uint64_t at = kSp; at < kStack + stack_.bytes(); at += 8)
        stack_.set(at, kModule + kLeaf + 8);
    EXPECT_EQ(walk(kLeaf).status, DWUNW_ERR_FRAME_LIMIT);
}

} // namespace
} // namespace dwunw::unwind
