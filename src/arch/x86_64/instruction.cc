// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Decodes x86-64 instructions for a walk over code without CFI:
//
//     48 83 ec 18    sub $0x18, %rsp    4 bytes, to the next instruction, SP = SP − 0x18
//     48 89 04 24    mov %rax, (%rsp)   4 bytes, to the next instruction, SP and FP unchanged
//
// It answers three questions: how long, where to, and what becomes of rsp and rbp. It ignores all other operands. The
// forms that compilers use to set frames up have an exact effect; after any other write of rsp or rbp the register is
// unknown.
//
// Proved by tests/unit/arch_x86_64_instruction_test: each form by hand; and against Zydis whole libraries and every
// opcode, for length, target and writes.
#include "arch/x86_64/arch.h"
#include "arch/x86_64/encoding.h"
#include "arch/x86_64/register_writes.h"

#include <limits>

namespace dwunw::arch::x86_64 {
namespace {

using Flow = Instruction::Flow;
using Effect = Instruction::Effect;

bool is_sp_or_fp(uint8_t reg) { return reg == kEncodedSp || reg == kEncodedFp; }

// xabort and xbegin, and moves to and from control and debug registers: a walk through user code does not follow them.
bool is_refused(const Encoding &instruction) {
    if ((instruction.traits & kOnlyRegisters) != 0)
        return true;
    const bool may_be = instruction.is(0, 0xc6) || instruction.is(0, 0xc7);
    return may_be && instruction.rm_is_register() && instruction.extension() == 7;
}

// The operand is displacement(%rsp) or displacement(%rbp).
bool is_on_stack(const Encoding &instruction) {
    return is_sp_or_fp(instruction.base) && !instruction.has_index && !instruction.address32 && !instruction.segment;
}

void set(Instruction &out, Effect effect, uint8_t base, int64_t offset) {
    out.effect = effect;
    out.from_fp = base == kEncodedFp;
    out.offset = static_cast<int32_t>(offset);
}

// mov %rbp, n(%rsp) and the reverse.
bool moves_fp(const Encoding &instruction, uint8_t opcode) {
    return instruction.is(0, opcode) && instruction.reg == kEncodedFp && instruction.rex_w() &&
           is_on_stack(instruction);
}

void write(Instruction &out, const Encoding &instruction) {
    if (moves_fp(instruction, 0x89)) {
        set(out, Effect::kStoreFp, instruction.base, instruction.displacement);
        return;
    }
    const RegisterWrites writes = register_writes(instruction);
    const bool sp = writes.has(kEncodedSp);
    const bool fp = writes.has(kEncodedFp);
    if (!sp && !fp)
        return;
    if (moves_fp(instruction, 0x8b)) {
        set(out, Effect::kLoadFp, instruction.base, instruction.displacement);
        return;
    }
    const auto sum = register_sum(instruction);
    if (sum && is_sp_or_fp(sum->from) && sum->constant <= std::numeric_limits<int32_t>::max())
        set(out, sp ? Effect::kSetSp : Effect::kSetFp, sum->from, sum->constant);
    else
        out.effect = sp && fp ? Effect::kLose : sp ? Effect::kLoseSp : Effect::kLoseFp;
}

void push(Instruction &out, const Encoding &instruction) {
    out.effect = instruction.operand16 ? Effect::kLoseSp : Effect::kPush;
    const bool of_opcode = instruction.map == 0 && (instruction.opcode & 0xf8) == 0x50;
    out.of_fp = of_opcode ? instruction.opcode_reg() == kEncodedFp
                          : instruction.is(0, 0xff) && instruction.rm_is_register() && instruction.rm == kEncodedFp;
}

void pop(Instruction &out, const Encoding &instruction) {
    const RegisterWrites writes = register_writes(instruction);
    out.of_fp = writes.has(kEncodedFp);
    if (writes.registers == 0) // into memory, or the flags
        out.effect = instruction.operand16 ? Effect::kLoseSp : Effect::kPop;
    else
        out.effect = instruction.operand16 || writes.has(kEncodedSp) ? Effect::kLose : Effect::kPop;
}

// To the target that the immediate gives.
void go(Instruction &out, Flow flow, const Encoding &instruction) {
    out.flow = flow;
    out.target = instruction.length + instruction.immediate;
}

} // namespace

std::optional<Instruction> decode(std::span<const uint8_t> code) {
    std::optional<Instruction> result;
    Encoding instruction;
    if (!read_encoding(code, instruction) || is_refused(instruction))
        return result;
    Instruction &out = result.emplace();
    out.length = instruction.length;
    out.target = instruction.length;
    switch (instruction.action()) {
    case Action::kNothing:
        write(out, instruction);
        break;
    case Action::kPush:
        push(out, instruction);
        break;
    case Action::kPop:
        pop(out, instruction);
        break;
    case Action::kEnter:
        out.effect = Effect::kLose;
        break;
    case Action::kLeave:
        out.effect = instruction.operand16 ? Effect::kLose : Effect::kLeave;
        break;
    case Action::kBranch:
        go(out, Flow::kBranch, instruction);
        break;
    case Action::kJump:
        go(out, Flow::kJump, instruction);
        break;
    case Action::kCall:
        go(out, Flow::kCall, instruction);
        break;
    case Action::kIndirectCall:
        out.flow = Flow::kIndirectCall;
        break;
    case Action::kIndirectJump:
        out.flow = Flow::kIndirectJump;
        break;
    case Action::kReturn:
        out.flow = Flow::kReturn;
        out.offset = static_cast<uint16_t>(instruction.immediate);
        break;
    case Action::kSystemCall:
        out.flow = Flow::kSystemCall;
        break;
    case Action::kFarCall:
    case Action::kFarJump:
    case Action::kEnd:
    case Action::kByModRm: // action() never returns it
        out.flow = Flow::kEnd;
        break;
    }
    return result;
}

} // namespace dwunw::arch::x86_64
