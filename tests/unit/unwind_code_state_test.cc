// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What single instructions do to SP and FP, and what is known where two paths meet.
#include "unwind/code_state.h"

#include <gtest/gtest.h>

namespace dwunw::unwind {
namespace {

using arch::Instruction;
using Base = CodeValue::Base;
using Effect = Instruction::Effect;

Instruction instruction(Effect effect, int32_t offset = 0, bool from_fp = false, bool of_fp = false) {
    Instruction result;
    result.effect = effect;
    result.offset = offset;
    result.from_fp = from_fp;
    result.of_fp = of_fp;
    return result;
}

// push %rbp; mov %rsp, %rbp; sub $0x20, %rsp
CodeState with_frame() {
    CodeState state;
    execute(instruction(Effect::kPush, 0, false, true), state);
    execute(instruction(Effect::kSetFp), state);
    execute(instruction(Effect::kSetSp, -0x20), state);
    return state;
}

TEST(CodeState, APrologueSavesTheStartsFpAndSetsItUp) {
    const CodeState state = with_frame();
    EXPECT_EQ(state.sp, (CodeValue{Base::kSp, -0x28}));
    EXPECT_EQ(state.fp, (CodeValue{Base::kSp, -8}));
    EXPECT_EQ(state.saved_fp, (CodeValue{Base::kSp, -8}));
}

TEST(CodeState, LeaveGivesTheFrameBack) {
    CodeState state = with_frame();
    execute(instruction(Effect::kLeave), state);
    EXPECT_EQ(state.sp, (CodeValue{Base::kSp, 0}));
    EXPECT_EQ(state.fp, kStartFp);
}

TEST(CodeState, AWordThatIsNotTheSavedFpIsTheWordAtItsAddress) {
    CodeState state;
    execute(instruction(Effect::kLoadFp, 0x10), state);
    EXPECT_EQ(state.fp, (CodeValue{Base::kAtSp, 0x10}));
}

// push %rax over the slot that held FP: it does not hold it any more.
TEST(CodeState, APushOverTheSavedFpOverwritesIt) {
    CodeState state;
    execute(instruction(Effect::kPush, 0, false, true), state);
    execute(instruction(Effect::kPop), state);
    execute(instruction(Effect::kPush), state);
    EXPECT_EQ(state.saved_fp, CodeValue{});
}

TEST(CodeState, WhatAnInstructionLosesIsUnknown) {
    CodeState state;
    execute(instruction(Effect::kLoseFp), state);
    EXPECT_EQ(state.fp, CodeValue{});
    EXPECT_EQ(state.sp, (CodeValue{Base::kSp, 0}));
    execute(instruction(Effect::kLose), state);
    EXPECT_EQ(state.sp, CodeValue{});
}

TEST(CodeState, WherePathsMeetWhatDiffersIsUnknown) {
    const CodeState frame = with_frame();
    CodeState deeper = frame;
    execute(instruction(Effect::kPush), deeper);
    const CodeState joined = join(frame, deeper);
    EXPECT_EQ(joined.sp, CodeValue{});
    EXPECT_EQ(joined.fp, frame.fp);
    EXPECT_EQ(joined.saved_fp, frame.saved_fp);
}

TEST(CodeState, SumsBeyondAnyFrameAreUnknown) {
    const CodeValue sp{Base::kSp, 0};
    EXPECT_EQ(plus(sp, (1 << 28) + 1), CodeValue{});
    EXPECT_EQ(plus(plus(sp, 1 << 28), 1), CodeValue{});
    EXPECT_EQ(plus({Base::kAtSp, 0}, 8), CodeValue{});
}

} // namespace
} // namespace dwunw::unwind
