// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests what code without CFI says about SP and FP, on hand-written functions.
#include "unwind/code_paths.h"

#include "support/fake_space.h"

#include <gtest/gtest.h>

namespace dwunw::unwind {
namespace {

using testing::FakeSpace;
using Base = CodeValue::Base;

constexpr uint64_t kCode = 0x10000;

class CodePathsTest : public ::testing::Test {
  protected:
    CodePathsTest() { space_.add_other(CodeKind::kAnonymous, kCode, 0x4000); }
    CodeExits exits(uint64_t pc, bool after_call = false) {
        return CodePaths(arch(), space_).exits(code(pc, after_call));
    }
    CodeReach reach(uint64_t start, uint64_t pc, bool after_call = false) {
        return CodePaths(arch(), space_).reach(RunAddr(kCode + start), code(pc, after_call));
    }
    static CodeAddr code(uint64_t pc, bool after_call) {
        const RunAddr address(kCode + pc);
        return after_call ? CodeAddr::return_address(address) : CodeAddr::instruction(address);
    }
    static const arch::Arch &arch() { return *arch::find_by_id(DWUNW_ARCH_X86_64); }
    void set(uint64_t at, std::initializer_list<uint8_t> bytes) { space_.set_code(kCode + at, bytes); }
    FakeSpace space_;
};

// push %rbx; sub $16,%rsp; nop; add $16,%rsp; pop %rbx; ret
TEST_F(CodePathsTest, WithoutAFramePointer) {
    set(0, {0x53, 0x48, 0x83, 0xec, 0x10, 0x90, 0x48, 0x83, 0xc4, 0x10, 0x5b, 0xc3});
    const std::pair<uint64_t, int32_t> expected[] = {{0, 0}, {1, 8}, {5, 24}, {6, 24}, {10, 8}, {11, 0}};
    for (const auto &[pc, slot] : expected) {
        const CodeExits found = exits(pc);
        ASSERT_EQ(found.count, 1u) << pc;
        EXPECT_EQ(found.exits[0].slot, (CodeValue{Base::kSp, slot})) << pc;
        EXPECT_EQ(found.exits[0].fp, (CodeValue{Base::kFp, 0})) << pc;
        EXPECT_EQ(found.exits[0].calls, 0u);
        EXPECT_TRUE(found.complete);
        const CodeReach reached = reach(0, pc);
        ASSERT_TRUE(reached.reached) << pc;
        EXPECT_EQ(reached.state.sp, (CodeValue{Base::kSp, -slot})) << pc;
        EXPECT_TRUE(reached.returns_from_there);
    }
}

// push %rbp; mov %rsp,%rbp; push %rbx; sub $8,%rsp; nop; and one end of each form
TEST_F(CodePathsTest, WithAFramePointer) {
    const std::initializer_list<std::initializer_list<uint8_t>> ends = {
        {0x48, 0x8b, 0x5d, 0xf8, 0xc9, 0xc3},       // mov -8(%rbp),%rbx; leave; ret
        {0x48, 0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3}, // lea -8(%rbp),%rsp; pop %rbx; pop %rbp; ret
        {0x48, 0x89, 0xec, 0x5d, 0xc2, 0x10, 0x00}, // mov %rbp,%rsp; pop %rbp; ret $16
        {0xc9, 0xff, 0xe1},                         // leave; jmp *%rcx
        {0xc9, 0x59, 0x48, 0x8d, 0x64, 0xd4, 0x08, 0x51,
         0xc3}, // leave; pop %rcx; lea 8(%rsp,%rdx,8),%rsp; push %rcx; ret
    };
    for (const auto &end : ends) {
        set(0, {0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x08, 0x90});
        set(10, end);
        const CodeExits found = exits(9);
        ASSERT_GE(found.count, 1u);
        EXPECT_EQ(found.exits[0].slot, (CodeValue{Base::kFp, 8}));
        EXPECT_EQ(found.exits[0].fp, (CodeValue{Base::kAtFp, 0}));
        const CodeReach reached = reach(0, 9);
        ASSERT_TRUE(reached.reached);
        EXPECT_EQ(reached.state.fp, (CodeValue{Base::kSp, -8}));
        EXPECT_EQ(reached.state.fp, reached.state.saved_fp);
        EXPECT_EQ(reached.state.sp, (CodeValue{Base::kSp, -24}));
    }
}

// lea 8(%rsp),%r10; and $-32,%rsp; push -8(%r10); push %rbp; mov %rsp,%rbp; nop; pop %rbp; lea -8(%r10),%rsp; ret
TEST_F(CodePathsTest, ARealignedFrameEndsNowhereThatIsKnown) {
    set(0, {0x4c, 0x8d, 0x54, 0x24, 0x08, 0x48, 0x83, 0xe4, 0xe0, 0x41, 0xff, 0x72,
            0xf8, 0x55, 0x48, 0x89, 0xe5, 0x90, 0x5d, 0x49, 0x8d, 0x62, 0xf8, 0xc3});
    const CodeExits found = exits(17);
    ASSERT_EQ(found.count, 1u);
    EXPECT_EQ(found.exits[0].slot.base, Base::kUnknown);
}

// What has no call in it decides. je 8; call; add $24,%rsp; ret … 8: add $8,%rsp; ret
TEST_F(CodePathsTest, APathWithoutCallsDecides) {
    set(0, {0x74, 0x0a, 0xe8, 0xf9, 0x0f, 0, 0, 0x48, 0x83, 0xc4, 0x18, 0xc3});
    set(12, {0x48, 0x83, 0xc4, 0x08, 0xc3});
    set(0x1000, {0xc3});
    const CodeExits found = exits(0);
    ASSERT_EQ(found.count, 1u);
    EXPECT_EQ(found.exits[0].slot, (CodeValue{Base::kSp, 8}));
    EXPECT_EQ(found.exits[0].calls, 0u);
    const CodeExits behind = exits(7, true);
    ASSERT_EQ(behind.count, 1u);
    EXPECT_EQ(behind.exits[0].slot, (CodeValue{Base::kSp, 24}));
    EXPECT_EQ(behind.exits[0].calls, 1u);
}

// call 0x1000; add $24,%rsp; ret: the path goes on if 0x1000 can return.
TEST_F(CodePathsTest, NoPathFollowsACallThatNeverReturns) {
    set(0, {0xe8, 0xfb, 0x0f, 0, 0, 0x48, 0x83, 0xc4, 0x18, 0xc3});
    set(0x1000, {0x53, 0x5b, 0xc3}); // push %rbx; pop %rbx; ret
    EXPECT_EQ(exits(0).count, 1u);
    set(0x1000, {0x53, 0xeb, 0xfe}); // push %rbx; for ever
    EXPECT_EQ(exits(0).count, 0u);
    // push %rax; a call through a pointer, which does not return; and the next function, which does.
    set(0x1000, {0x50, 0xff, 0xd0, 0x53, 0x5b, 0xc3});
    EXPECT_EQ(exits(0).count, 0u);
    set(0x1000, {0x48, 0x83, 0xe4, 0xe0, 0xc3}); // and $-32,%rsp; ret: unknown
    EXPECT_EQ(exits(0).count, 1u);
    set(0x1000, {0xff, 0x25, 0, 0, 0, 0}); // a PLT's
    EXPECT_EQ(exits(0).count, 1u);
}

// Two paths that meet with different SPs: test; je 3; push %rax; 3: ret
TEST_F(CodePathsTest, PathsThatMeetDifferently) {
    set(0, {0x74, 0x01, 0x50, 0xc3});
    const CodeExits found = exits(0);
    ASSERT_EQ(found.count, 1u);
    EXPECT_EQ(found.exits[0].slot.base, Base::kUnknown);
}

// A jump out of the function, and into it: jmp 0x100; 0x100: sub $8,%rsp; nop; add $8,%rsp; ret
TEST_F(CodePathsTest, ATailCallIsFollowed) {
    set(0, {0xe9, 0xfb, 0, 0, 0});
    set(0x100, {0x48, 0x83, 0xec, 0x08, 0x90, 0x48, 0x83, 0xc4, 0x08, 0xc3});
    const CodeReach reached = reach(0, 0x104);
    ASSERT_TRUE(reached.reached);
    EXPECT_EQ(reached.state.sp, (CodeValue{Base::kSp, -8}));
    EXPECT_FALSE(reach(0x100, 0x90).reached);
    EXPECT_TRUE(reach(0x100, 0x90).complete);
}

// A return address is reached at its call, and not by a jump behind it:
// sub $8,%rsp; je 0x10; call *%rax (never returns); 0xb: push %rbx …; and 0x10: add $8,%rsp; jmp 0xb
TEST_F(CodePathsTest, AReturnAddressIsReachedAtItsCall) {
    set(0, {0x48, 0x83, 0xec, 0x08, 0x74, 0x0a, 0x50, 0x50, 0x50, 0xff, 0xd0, 0x53, 0x5b, 0xc3, 0x90, 0x90});
    set(0x10, {0x48, 0x83, 0xc4, 0x08, 0xeb, 0xf5});
    const CodeReach at_call = reach(0, 11, true);
    ASSERT_TRUE(at_call.reached);
    EXPECT_EQ(at_call.state.sp, (CodeValue{Base::kSp, -32}));
    const CodeReach behind = reach(0, 11);
    ASSERT_TRUE(behind.reached);
    EXPECT_EQ(behind.state.sp, (CodeValue{Base::kSp, 0})); // over fewer calls
}

// call 5; 5: pop %rax; ret: how code finds out where it is.
TEST_F(CodePathsTest, ACallOfTheNextInstruction) {
    set(0, {0xe8, 0, 0, 0, 0, 0x58, 0xc3});
    const CodeExits found = exits(0);
    ASSERT_EQ(found.count, 1u);
    EXPECT_EQ(found.exits[0].slot, (CodeValue{Base::kSp, 0}));
    EXPECT_EQ(found.exits[0].calls, 0u);
}

// FP saved, used for something else, and given back: push %rbp; mov %rdi,%rbp; nop; pop %rbp; ret
TEST_F(CodePathsTest, WhereTheOuterFramePointerIs) {
    set(0, {0x55, 0x48, 0x89, 0xfd, 0x90, 0x5d, 0xc3});
    const CodeExits found = exits(4);
    ASSERT_EQ(found.count, 1u);
    EXPECT_EQ(found.exits[0].slot, (CodeValue{Base::kSp, 8}));
    EXPECT_EQ(found.exits[0].fp, (CodeValue{Base::kAtSp, 0}));
    const CodeExits from_start = exits(0);
    ASSERT_EQ(from_start.count, 1u);
    EXPECT_EQ(from_start.exits[0].fp, (CodeValue{Base::kFp, 0}));
    EXPECT_EQ(reach(0, 4).state.saved_fp, (CodeValue{Base::kSp, -8}));
}

// Loops, and code without an end: every walk ends.
TEST_F(CodePathsTest, LoopsAndEndlessCodeAreBounded) {
    set(0, {0x50, 0xeb, 0xfd}); // push %rax for ever
    EXPECT_EQ(exits(0).count, 0u);
    for (uint64_t at = 0x1000; at < 0x4000; ++at)
        set(at, {0x90});
    const CodeExits found = exits(0x1000);
    EXPECT_EQ(found.count, 0u);
    EXPECT_FALSE(found.complete);
    EXPECT_FALSE(reach(0x1000, 0x3fff).complete);
    set(0x3ffe, {0x48, 0x89}); // cut by the end of the mapping
    EXPECT_FALSE(exits(0x3ffe).complete);
    EXPECT_FALSE(exits(0x5000).complete); // nothing there
}

// Code of nothing but calls, each of another function of nothing but calls: a step ends, and so does a walk of many.
TEST_F(CodePathsTest, HostileCallsCostNoMoreThanTheBudget) {
    for (uint64_t at = 0; at + 7 < 0x4000; at += 7) // je over a call; call somewhere behind
        set(at, {0x74, 0x05, 0xe8, static_cast<uint8_t>(at * 13), static_cast<uint8_t>((at * 7 >> 8) & 0x1f), 0, 0});
    CodePaths paths(arch(), space_);
    size_t complete = 0;
    for (uint64_t pc = 0; pc < 0x3000; pc += 7) {
        paths.begin_step();
        complete += paths.exits(code(pc, false)).complete;
    }
    const size_t reads = space_.finds;
    paths.begin_step();
    EXPECT_FALSE(paths.exits(code(0, false)).complete); // all is spent
    EXPECT_LE(space_.finds - reads, 600u);              // a piece of code at most
    EXPECT_LT(complete, 0x3000u / 7);
}

} // namespace
} // namespace dwunw::unwind
