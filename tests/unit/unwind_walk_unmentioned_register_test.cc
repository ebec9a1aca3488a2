// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Walks through a frame whose CFA comes from a register that no rule of the inner frame mentions.
#include "support/walk_fixture.h"

namespace dwunw::unwind {
namespace {

using namespace dwarf;
using namespace testing;

// As OpenSSL's assembly does it: helper ← by_rax, which keeps its caller's SP in rax ← middle.
class UnmentionedRegister : public WalkTest {
  protected:
    static constexpr uint64_t kRax = kSp + 96;
    UnmentionedRegister() {
        stack_.set(kSp, at(kByRax, 0x20)).set(kRax, at(kMiddle, 0x20)).set(kRax + 8 + 24, at(kRoot, 0x20));
    }
    static Registers at_helper(uint64_t rax, uint64_t offset = 0) {
        return registers({{RIP, at(kHelper, offset)}, {RSP, kSp}, {RBP, 0}, {RBX, 0}, {RAX, rax}});
    }
    dwunw_status walk_from_helper(uint64_t rax = kRax) { return walk_from(at_helper(rax), stack_.memory()); }
    void expect_stop(const char *why, uint64_t rax = kRax) {
        SCOPED_TRACE(why);
        EXPECT_EQ(walk_from_helper(rax), DWUNW_ERR_REGISTER_UNKNOWN);
        EXPECT_EQ(result_.written, 2u);
        EXPECT_EQ(result_.unmentioned_frames, 0u);
    }
};

TEST_F(UnmentionedRegister, IsUsedWhereTheHelperDoesNotWriteIt) {
    for (const uint64_t offset : {0, 1, 3}) {
        ASSERT_EQ(walk_from(at_helper(kRax, offset), stack_.memory()), DWUNW_OK);
        EXPECT_EQ(pcs(), (Pcs{at(kHelper, offset), at(kByRax, 0x20), at(kMiddle, 0x20), at(kRoot, 0x20)}));
        EXPECT_EQ(frames_[0].flags, DWUNW_FRAME_FLAG_EXACT_PC);
        EXPECT_EQ(frames_[1].flags, DWUNW_FRAME_FLAG_CFA_UNMENTIONED);
        EXPECT_EQ(frames_[2].flags, 0u);
        EXPECT_EQ(frames_[1].cfa, kRax + 8);
        EXPECT_EQ(frames_[2].sp, kRax + 8);
        EXPECT_EQ(result_.unmentioned_frames, 1u);
        EXPECT_FALSE(result_.used_interpreter);
    }
    expect_stop("what is not an instruction's beginning", kRax + 8);
}

// Warm, no file is looked at: neither for the rule, nor for the code.
TEST_F(UnmentionedRegister, WarmItReadsNoFile) {
    space_.rules = std::make_unique<RuleCache>();
    const Registers regs = at_helper(kRax);
    const StackMemory memory = stack_.memory();
    const WalkRequest request{space_, x86_64(), regs, memory, {}, frames_};
    for (int i = 0; i < 3; ++i)
        ASSERT_EQ(walk(request).status, DWUNW_OK);
    const size_t finds = space_.finds;
    EXPECT_EQ(walk(request).written, 4u);
    EXPECT_EQ(space_.finds, finds);
    // What is remembered is the helper's, not any function's that returns to the same address.
    const Registers at_leaf = registers({{RIP, at(kLeaf)}, {RSP, kSp}, {RAX, kRax}});
    for (int i = 0; i < 3; ++i)
        EXPECT_EQ(walk({space_, x86_64(), at_leaf, memory, {}, frames_}).status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(walk(request).written, 4u);
}

TEST_F(UnmentionedRegister, IsNotUsedWhereTheHelperMayHaveWrittenIt) {
    space_.set_code(at(kHelper), {0x31, 0xc0, 0xc3, 0xc3});
    expect_stop("xor %eax, %eax");
    space_.set_code(at(kHelper), {0x58, 0x50, 0x90, 0xc3});
    expect_stop("pop %rax");
    space_.set_code(at(kHelper), {0xff, 0xd1, 0x90, 0xc3});
    expect_stop("call *%rcx");
    space_.set_code(at(kHelper), {0xeb, 0x10, 0x90, 0xc3});
    expect_stop("jmp to elsewhere");
    space_.set_code(at(kHelper), {0x0f, 0x05, 0x90, 0xc3});
    expect_stop("syscall");
    space_.set_code(at(kHelper), {0x90, 0x90, 0x90, 0x90});
    expect_stop("the next function follows");
    space_.set_code(at(kHelper), {0x31, 0xc9, 0x90, 0xc3});
    EXPECT_EQ(walk_from_helper(), DWUNW_OK) << "xor %ecx, %ecx";
}

TEST_F(UnmentionedRegister, IsNotUsedWhereSomethingElseWasCalled) {
    call(kByRax, 0x20, kLeaf);
    expect_stop("another function");
    call(kByRax, 0x20, kHelperEnd);
    expect_stop("the function behind it");
    space_.set_code(at(kByRax, 0x20 - 5), {0x90, 0x90, 0x90, 0xff, 0xd1});
    expect_stop("whatever rcx held");
    call(kByRax, 0x20, kHelper + 2);
    expect_stop("the middle of an instruction");
    call(kByRax, 0x20, kHelper + 1);
    EXPECT_EQ(walk_from_helper(), DWUNW_OK) << "another entry of the helper's";
}

TEST_F(UnmentionedRegister, IsNotUsedForAnImpossibleCfa) {
    expect_stop("not above SP", kSp);
    expect_stop("the helper's own return address", kSp + 8 - 8);
    expect_stop("no return address there", kRax + 16);
    expect_stop("far away", kSp + (uint64_t{1} << 20) + 8);
    expect_stop("not in the stack", 0);
    stack_.set(kRax, at(kLeaf, 0x40));
    expect_stop("no call before it");
    // It may be right, and lies beyond the slice.
    EXPECT_EQ(walk_from_helper(kStack + stack_.bytes()), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(result_.written, 2u);
    const Registers without_rax = registers({{RIP, at(kHelper)}, {RSP, kSp}});
    EXPECT_EQ(walk_from(without_rax, stack_.memory()), DWUNW_ERR_REGISTER_UNKNOWN);
}

// A rule that ends with the call does not say that the call gives the register back.
TEST_F(UnmentionedRegister, IsNotUsedWhereTheRuleEndsWithTheCall) {
    for (const bool goes_on : {true, false}) {
        FrameSection section;
        const size_t cie = section.cie();
        section.fde(cie, 0x100, 4);
        section.fde(cie, 0x300, 0x40, Bytes().def_cfa(RAX, 8).advance(goes_on ? 6 : 5).def_cfa(RSP, 32));
        section.fde(cie, 0x400, 0x40, Bytes({DW_CFA_undefined, RIP}));
        FakeSpace space;
        space.add_module(kModule, 0x1000, section);
        space.set_code(kModule + 0x100, {0x90, 0x90, 0x90, 0xc3});
        space.set_code(kModule + 0x300, {0xe8, 0xfb, 0xfd, 0xff, 0xff}); // call 0x100
        space.set_code(kModule + 0x400, {0xff, 0xd0});
        FakeStack stack(kStack, 256);
        stack.set(kSp, kModule + 0x305).set(kRax, kModule + 0x402);
        const Registers regs = registers({{RIP, kModule + 0x100}, {RSP, kSp}, {RAX, kRax}});
        const StackMemory memory = stack.memory();
        const WalkResult result = walk({space, x86_64(), regs, memory, {}, frames_});
        EXPECT_EQ(result.status, goes_on ? DWUNW_OK : DWUNW_ERR_REGISTER_UNKNOWN);
        EXPECT_EQ(result.written, goes_on ? 3u : 2u);
    }
}

// Two calls away, another may have been made and have returned in between.
TEST_F(UnmentionedRegister, IsKnownForOneCallOnly) {
    FrameSection section;
    const size_t cie = section.cie();
    section.fde(cie, 0x100, 4);
    section.fde(cie, 0x200, 0x20);
    section.fde(cie, 0x300, 0x40, Bytes().def_cfa(RAX, 8));
    FakeSpace space;
    space.add_module(kModule, 0x1000, section);
    space.set_code(kModule + 0x100, {0x90, 0x90, 0x90, 0xc3});
    space.set_code(kModule + 0x200, {0xe8, 0xfb, 0xfe, 0xff, 0xff, 0xc3}); // call 0x100; ret
    space.set_code(kModule + 0x300, {0xe8, 0xfb, 0xfe, 0xff, 0xff});       // call 0x200
    FakeStack stack(kStack, 256);
    stack.set(kSp, kModule + 0x205).set(kSp + 8, kModule + 0x305).set(kRax, kModule + 0x205);
    const Registers regs = registers({{RIP, kModule + 0x100}, {RSP, kSp}, {RAX, kRax}});
    const StackMemory memory = stack.memory();
    const WalkResult result = walk({space, x86_64(), regs, memory, {}, frames_});
    EXPECT_EQ(result.status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(result.written, 3u);
}

// The handler's rax is not the helper's, which the signal frame holds.
TEST_F(UnmentionedRegister, OfAnInterruptedFrame) {
    const uint64_t frame = kStack + 1024;
    stack_.set(frame - 8, at(kMusl)).set(frame + 144, kRax).set(frame + 160, kSp).set(frame + 168, at(kHelper, 1));
    const auto in_handler = [&](uint64_t rax) {
        return registers({{RIP, at(kLeaf)}, {RSP, frame - 8}, {RAX, rax}, {RBP, 0}});
    };
    ASSERT_EQ(walk_from(in_handler(0), stack_.memory()), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kLeaf), at(kMusl), at(kHelper, 1), at(kByRax, 0x20), at(kMiddle, 0x20), at(kRoot, 0x20)}));
    EXPECT_EQ(frames_[3].flags, DWUNW_FRAME_FLAG_CFA_UNMENTIONED);
    EXPECT_TRUE(result_.used_interpreter);
    stack_.set(frame + 144, 0);
    EXPECT_EQ(walk_from(in_handler(kRax), stack_.memory()), DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(result_.written, 4u);
}

TEST_F(UnmentionedRegister, BeforeAPendingUretprobe) {
    stack_.set(kRax, kUprobes);
    pending_ = {{kRax, at(kMiddle, 0x20)}};
    ASSERT_EQ(walk_from_helper(), DWUNW_OK);
    EXPECT_EQ(pcs(), (Pcs{at(kHelper), at(kByRax, 0x20), at(kMiddle, 0x20), at(kRoot, 0x20)}));
    pending_ = {{kRax + 8, at(kMiddle, 0x20)}};
    EXPECT_EQ(walk_from_helper(), DWUNW_ERR_UPROBE_TRAMPOLINE);
}

} // namespace
} // namespace dwunw::unwind
