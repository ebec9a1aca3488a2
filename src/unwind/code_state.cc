// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/code_state.h"

namespace dwunw::unwind {
namespace {

using arch::Instruction;
using Base = CodeValue::Base;

constexpr int32_t kMostOffset = 1 << 28; // no frame is larger; sums stay in range

CodeValue word_at(CodeValue address) {
    if (address.base == Base::kSp)
        return {Base::kAtSp, address.offset};
    if (address.base == Base::kFp)
        return {Base::kAtFp, address.offset};
    return {};
}

CodeValue load(const CodeState &state, CodeValue address) {
    return address.base != Base::kUnknown && address == state.saved_fp ? kStartFp : word_at(address);
}

void store_fp(CodeState &state, CodeValue address) {
    if (state.fp == kStartFp)
        state.saved_fp = plus(address, 0);
}

CodeValue join(CodeValue a, CodeValue b) { return a == b ? a : CodeValue{}; }

} // namespace

CodeValue plus(CodeValue value, int64_t offset) {
    const int64_t sum = value.offset + offset;
    if ((value.base != Base::kSp && value.base != Base::kFp) || sum > kMostOffset || sum < -kMostOffset)
        return {};
    return {value.base, static_cast<int32_t>(sum)};
}

void execute(const Instruction &instruction, CodeState &state) {
    constexpr int64_t kWord = 8;
    const CodeValue address = plus(instruction.from_fp ? state.fp : state.sp, instruction.offset);
    switch (instruction.effect) {
    case Instruction::Effect::kNone:
        break;
    case Instruction::Effect::kPush:
        state.sp = plus(state.sp, -kWord);
        if (instruction.of_fp)
            store_fp(state, state.sp);
        else if (state.sp == state.saved_fp)
            state.saved_fp = {};
        break;
    case Instruction::Effect::kPop:
        if (instruction.of_fp)
            state.fp = load(state, state.sp);
        state.sp = plus(state.sp, kWord);
        break;
    case Instruction::Effect::kSetSp:
        state.sp = address;
        break;
    case Instruction::Effect::kSetFp:
        state.fp = address;
        break;
    case Instruction::Effect::kLoadFp:
        state.fp = load(state, address);
        break;
    case Instruction::Effect::kStoreFp:
        store_fp(state, address);
        break;
    case Instruction::Effect::kLeave: {
        const CodeValue frame = plus(state.fp, 0);
        state.fp = load(state, frame);
        state.sp = plus(frame, kWord);
        break;
    }
    case Instruction::Effect::kLoseSp:
        state.sp = {};
        break;
    case Instruction::Effect::kLoseFp:
        state.fp = {};
        break;
    case Instruction::Effect::kLose:
        state.sp = {};
        state.fp = {};
        break;
    }
}

CodeState join(const CodeState &a, const CodeState &b) {
    return {join(a.sp, b.sp), join(a.fp, b.fp), join(a.saved_fp, b.saved_fp)};
}

} // namespace dwunw::unwind
