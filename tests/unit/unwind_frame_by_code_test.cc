// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests which steps without CFI are certain: each witness alone, and each way in which a caller was once left out.
#include "unwind/frame_by_code.h"

#include "support/fake_space.h"

#include <gtest/gtest.h>

namespace dwunw::unwind {
namespace {

using testing::FakeSpace;
using testing::FakeStack;
using testing::RBP;
using testing::RBX;
using testing::registers;
using testing::RIP;
using testing::RSP;

constexpr uint64_t kCode = 0x10000;
constexpr uint64_t kStack = 0x7000'0000;
constexpr uint64_t kSp = kStack + 0x40;

class FrameByCodeTest : public ::testing::Test {
  protected:
    FrameByCodeTest() { space_.add_other(CodeKind::kAnonymous, kCode, 0x4000); }
    void set(uint64_t at, std::initializer_list<uint8_t> bytes) { space_.set_code(kCode + at, bytes); }
    void call(uint64_t return_address, uint64_t callee) {
        const auto distance = static_cast<uint32_t>(callee - return_address);
        set(return_address - 5, {0xe8, static_cast<uint8_t>(distance), static_cast<uint8_t>(distance >> 8),
                                 static_cast<uint8_t>(distance >> 16), static_cast<uint8_t>(distance >> 24)});
    }
    void call_by_pointer(uint64_t return_address) { set(return_address - 2, {0xff, 0xd0}); }

    FrameByCode step(CodeAddr pc, uint64_t fp, const StackMemory &memory) {
        regs_ = registers({{RSP, kSp}, {RBP, fp}, {RBX, 1}, {RIP, pc.pc().value}});
        const arch::Arch &arch = *arch::find_by_id(DWUNW_ARCH_X86_64);
        CodePaths paths(arch, space_);
        return step_by_code(arch, space_, paths, pc, inner_, memory, regs_);
    }
    FrameByCode at(uint64_t pc, uint64_t fp = 0) {
        return step(CodeAddr::instruction(RunAddr(kCode + pc)), fp, stack_.memory());
    }
    FrameByCode behind_call(uint64_t pc, uint64_t fp = 0) {
        return step(CodeAddr::return_address(RunAddr(kCode + pc)), fp, stack_.memory());
    }
    void expect_outer(const FrameByCode &found, uint64_t slot, uint64_t pc, bool by_frame_pointer) {
        ASSERT_EQ(found.step.outcome, Step::Outcome::kFrame) << found.step.status;
        EXPECT_EQ(found.step.return_slot, slot);
        EXPECT_EQ(found.step.cfa, slot + 8);
        EXPECT_EQ(regs_[RSP], slot + 8);
        EXPECT_EQ(regs_[RIP], kCode + pc);
        EXPECT_EQ(found.by_frame_pointer, by_frame_pointer);
        EXPECT_FALSE(regs_.known(RBX)); // who knows what this code did to it
    }
    static void expect_stop(const FrameByCode &found, dwunw_status status = DWUNW_ERR_NO_CFI) {
        EXPECT_EQ(found.step.outcome, Step::Outcome::kStopped);
        EXPECT_EQ(found.step.status, status);
    }

    FakeSpace space_;
    FakeStack stack_{kStack, 256};
    std::optional<InnerFrame> inner_;
    Registers regs_;
};

// A function that is about to return, without a call: add $24,%rsp; ret. What FP points to, and what else lies between,
// does not matter.
TEST_F(FrameByCodeTest, APathWithoutCallsIsCertain) {
    set(0x100, {0x48, 0x83, 0xc4, 0x18, 0xc3});
    call_by_pointer(0x200);
    call_by_pointer(0x300);
    stack_.set(kSp + 8, kCode + 0x300).set(kSp + 24, kCode + 0x200).set(kSp + 64, 0).set(kSp + 72, kCode + 0x300);
    expect_outer(at(0x100, kSp + 64), kSp + 24, 0x200, false);
    EXPECT_EQ(regs_[RBP], kSp + 64);
    stack_.set(kSp + 24, kCode + 0x201); // no call before it
    expect_stop(at(0x100, kSp + 64));
}

TEST_F(FrameByCodeTest, AFramePointerThatWillBeGivenBack) {
    set(0x100, {0x90, 0xc9, 0xc3}); // leave; ret
    call_by_pointer(0x200);
    stack_.set(kSp, kCode + 0x200).set(kSp + 64, 0x1234).set(kSp + 72, kCode + 0x200);
    expect_outer(at(0x100, kSp + 64), kSp + 72, 0x200, true);
    EXPECT_EQ(regs_[RBP], 0x1234u);
    for (const uint64_t fp : {kSp + 63, kSp - 8, uint64_t{0}, ~uint64_t{7}, uint64_t{0x123456789a8}})
        expect_stop(at(0x100, fp));
    expect_stop(at(0x100, kSp + 0x8000), DWUNW_ERR_SLICE_EXHAUSTED);
}

// A bytecode handler of V8: mov (%rbp),%rbp; add $24,%rsp; jmp *%rcx. Who goes through a list does the same to rbp.
TEST_F(FrameByCodeTest, AFrameThatEndsByAJumpThroughAPointer) {
    set(0x100, {0x48, 0x8b, 0x6d, 0x00, 0x48, 0x83, 0xc4, 0x18, 0xff, 0xe1});
    call_by_pointer(0x200);
    stack_.set(kSp + 16, 0x1234).set(kSp + 24, kCode + 0x200).set(kSp + 64, 0).set(kSp + 72, kCode + 0x200);
    expect_outer(at(0x100, kSp + 16), kSp + 24, 0x200, true);
    expect_stop(at(0x100, kSp + 64));
}

TEST_F(FrameByCodeTest, APendingUretprobeStandsForACall) {
    space_.add_other(CodeKind::kUprobeTrampoline, 0x7f000, 0x1000);
    set(0x100, {0xc9, 0xc3});
    stack_.set(kSp + 72, 0x7f000);
    EXPECT_EQ(at(0x100, kSp + 64).step.outcome, Step::Outcome::kFrame);
}

// A handler returns to the trampoline, which no call precedes.
TEST_F(FrameByCodeTest, AHandlersReturn) {
    set(0x100, {0xc3});
    set(0x200, {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05});
    stack_.set(kSp, kCode + 0x200);
    EXPECT_EQ(at(0x100).step.outcome, Step::Outcome::kFrame);
}

// Found in use: leaf has no frame pointer, its caller has one, and another function's prologue stands before leaf.
TEST_F(FrameByCodeTest, ACallerIsNotLeftOutBecauseOfAnotherFunctionsPrologue) {
    set(0x100, {0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3}); // before: push %rbp; mov %rsp,%rbp; pop %rbp; ret
    set(0x110, {0x48, 0x83, 0xec, 0x18});             // leaf: sub $24,%rsp
    call_by_pointer(0x120);                           //       call *%rax
    for (uint64_t nop = 0x114; nop < 0x11e; ++nop)
        set(nop, {0x90});
    set(0x120, {0x48, 0x83, 0xc4, 0x18, 0xc3}); //       add $24,%rsp; ret
    call(0x200, 0x110);                         // middle calls leaf
    call_by_pointer(0x300);                     // outer calls middle
    const uint64_t fp = kSp + 64;               // middle's
    stack_.set(kSp + 24, kCode + 0x200).set(fp, 0).set(fp + 8, kCode + 0x300);
    expect_outer(behind_call(0x120, fp), kSp + 24, 0x200, false);
    EXPECT_EQ(regs_[RBP], fp);
    // Its return address is another call's: nothing decides.
    call(0x200, 0x100);
    expect_stop(behind_call(0x120, fp));
}

// The same where nobody knows who called: the word above FP lies behind a call through a pointer, and leaf's end is not
// known (a trap follows the call).
TEST_F(FrameByCodeTest, NoFramePointerStepWithoutAProof) {
    set(0x100, {0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3});
    set(0x110, {0x48, 0x83, 0xec, 0x18, 0xff, 0xd0, 0xcc});
    call_by_pointer(0x200);
    call_by_pointer(0x300);
    const uint64_t fp = kSp + 64;
    stack_.set(kSp + 24, kCode + 0x200).set(fp, 0).set(fp + 8, kCode + 0x300);
    expect_stop(behind_call(0x116, fp));
}

// Code behind a call that never returns is another function's. One with a frame pointer ends there: leave; ret.
TEST_F(FrameByCodeTest, CodeAfterACallThatNeverReturnsIsNotFollowed) {
    set(0x400, {0xeb, 0xfe}); // for ever
    call(0x110, 0x400);
    set(0x110, {0xc9, 0xc3});
    call_by_pointer(0x300);
    stack_.set(kSp + 64, 0).set(kSp + 72, kCode + 0x300);
    expect_stop(behind_call(0x110, kSp + 64));
    set(0x400, {0xc3});
    expect_outer(behind_call(0x110, kSp + 64), kSp + 72, 0x300, true);
}

// The callee is unknown: then the end behind it counts only with a witness.
TEST_F(FrameByCodeTest, AnEndBehindACallNeedsAWitness) {
    call_by_pointer(0x110);
    set(0x110, {0xc9, 0xc3});
    call_by_pointer(0x200);
    call_by_pointer(0x300);
    const uint64_t fp = kSp + 64;
    stack_.set(kSp + 24, kCode + 0x200).set(fp, 0).set(fp + 8, kCode + 0x300);
    expect_stop(behind_call(0x110, fp)); // kSp + 24 may be the one
    stack_.set(kSp + 24, 0);
    expect_outer(behind_call(0x110, fp), fp + 8, 0x300, true); // the stack
    stack_.set(kSp + 24, kCode + 0x200);
    set(0x100, {0x55, 0x48, 0x89, 0xe5, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xd0});
    expect_outer(behind_call(0x110, fp), fp + 8, 0x300, true); // the prologue
    set(0x104, {0x5d, 0xc3});                                  // which ends before
    expect_stop(behind_call(0x110, fp));
    set(0x480, {0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x40, 0xe9, 0x81, 0xfc, 0xff, 0xff}); // …; jmp 0x10e
    call(0x300, 0x480);
    expect_outer(behind_call(0x110, fp), fp + 8, 0x300, true); // the caller
    call(0x300, 0x104);
    expect_stop(behind_call(0x110, fp));
}

// add $24,%rsp; pop %rbp; ret, as clang ends a function with a frame pointer: FP is where the code will take it from.
TEST_F(FrameByCodeTest, AnEndThatFitsTheFramePointer) {
    call_by_pointer(0x110);
    set(0x110, {0x48, 0x83, 0xc4, 0x18, 0x5d, 0xc3});
    call_by_pointer(0x300);
    stack_.set(kSp + 24, 0x1234).set(kSp + 32, kCode + 0x300);
    expect_outer(behind_call(0x110, kSp + 24), kSp + 32, 0x300, true);
    EXPECT_EQ(regs_[RBP], 0x1234u);
    expect_stop(behind_call(0x110, kSp + 64));
}

// A caller that is not known: the frame inside has to be on its way back.
TEST_F(FrameByCodeTest, ACalleeOnItsWayBack) {
    call_by_pointer(0x110);
    set(0x110, {0x48, 0x83, 0xc4, 0x18, 0xc3});
    call_by_pointer(0x300);
    stack_.set(kSp + 24, kCode + 0x300);
    expect_stop(behind_call(0x110));
    set(0x500, {0x5b, 0xc3}); // pop %rbx; ret
    inner_ = InnerFrame{CodeAddr::instruction(RunAddr(kCode + 0x500)), RunAddr(kSp - 16), RunAddr(kSp)};
    expect_outer(behind_call(0x110), kSp + 24, 0x300, false);
    inner_->cfa = RunAddr(kSp + 8); // it returns to elsewhere
    expect_stop(behind_call(0x110));
    set(0x500, {0xeb, 0xfe});
    inner_->cfa = RunAddr(kSp);
    expect_stop(behind_call(0x110));
}

// A function that never returns has no end; who called it is known.
TEST_F(FrameByCodeTest, AFunctionWithoutAnEndByItsCaller) {
    // push %rbp; xor %ebp,%ebp; sub $16,%rsp; call *%rax; int3
    set(0x100, {0x55, 0x31, 0xed, 0x48, 0x83, 0xec, 0x10, 0xff, 0xd0, 0xcc});
    call(0x200, 0x100);
    stack_.set(kSp + 16, 0x1234).set(kSp + 24, kCode + 0x200);
    expect_outer(behind_call(0x109), kSp + 24, 0x200, false);
    EXPECT_EQ(regs_[RBP], 0x1234u);
    stack_.set(kSp + 24, 0).set(kSp + 32, kCode + 0x200); // another's frame
    expect_stop(behind_call(0x109));
}

// A function whose jump table hides its blocks: the frame at the jump has to fit.
TEST_F(FrameByCodeTest, AJumpTableKeepsTheFrame) {
    set(0x100, {0x48, 0x83, 0xec, 0x18, 0xff, 0xe0}); // sub $24,%rsp; jmp *%rax
    call_by_pointer(0x152);
    set(0x152, {0x48, 0x83, 0xc4, 0x18, 0xc3});
    call(0x200, 0x100);
    set(0x500, {0xc3});
    inner_ = InnerFrame{CodeAddr::instruction(RunAddr(kCode + 0x500)), RunAddr(kSp - 8), RunAddr(kSp)};
    stack_.set(kSp + 24, kCode + 0x200);
    expect_outer(behind_call(0x152), kSp + 24, 0x200, false);
    set(0x100, {0x48, 0x83, 0xec, 0x28, 0xff, 0xe0});
    expect_stop(behind_call(0x152));
}

// A stack that ends too early says so, and no frame comes of it.
TEST_F(FrameByCodeTest, CutStacksGiveNoFrame) {
    set(0x100, {0x48, 0x83, 0xc4, 0x18, 0xc3});
    call_by_pointer(0x200);
    stack_.set(kSp + 24, kCode + 0x200);
    const auto pc = CodeAddr::instruction(RunAddr(kCode + 0x100));
    for (size_t bytes = 0x40; bytes < 0x40 + 32; bytes += 8)
        expect_stop(step(pc, 0, stack_.memory(bytes)), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(step(pc, 0, stack_.memory(0x40 + 32)).step.outcome, Step::Outcome::kFrame);
}

} // namespace
} // namespace dwunw::unwind
