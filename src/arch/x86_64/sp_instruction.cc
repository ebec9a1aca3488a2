// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Decodes x86-64 instructions for a function whose rows are compared with its code (lost_sp.cc):
//
//     push %rbx              adds −8 to SP
//     sub $0x18, %rsp        adds −0x18
//     mov 0x38(%rsi), %rsp   replaces SP
//     mov %rsp, %rdx         does neither
//
// Of the instructions' meanings, only the writes of SP and the changes of the pc matter. A wrong length would make
// other instructions of all that follow, so that every opcode map must be known.
//
// Proved by tests/unit/arch_x86_64_sp_instruction_test: each kind by hand, and lengths, jumps and writes of SP
// against Zydis, over the code of whole libraries and for every opcode.
#include "arch/x86_64/sp_instruction.h"

#include "arch/x86_64/encoding.h"
#include "arch/x86_64/register_writes.h"

namespace dwunw::arch::x86_64 {
namespace {

using Kind = SpInstruction::Kind;

void adds(SpInstruction &out, int64_t value) {
    out.kind = Kind::kAdds;
    out.value = value;
}

int64_t pushed(const Encoding &instruction) { return instruction.operand16 && !instruction.rex_w() ? 2 : 8; }

void write(SpInstruction &out, const Encoding &instruction) {
    if (!register_writes(instruction).has(kEncodedSp))
        return;
    const auto sum = register_sum(instruction);
    if (!sum || sum->to != kEncodedSp || sum->from != kEncodedSp)
        out.kind = Kind::kReplaces;
    else if (!instruction.is(0, 0x89) && !instruction.is(0, 0x8b)) // mov %rsp, %rsp
        adds(out, sum->constant);
}

void jumps(SpInstruction &out, Kind kind, const Encoding &instruction) {
    out.kind = kind;
    out.value = instruction.immediate;
}

} // namespace

SpInstruction decode_sp_instruction(std::span<const uint8_t> code) {
    Encoding instruction;
    if (!read_encoding(code, instruction))
        return {};
    SpInstruction out;
    out.kind = Kind::kOther;
    out.length = instruction.length;
    if (instruction.form != Encoding::Form::kLegacy)
        return out;
    switch (instruction.action()) {
    case Action::kNothing:
        write(out, instruction);
        break;
    case Action::kPush:
        adds(out, -pushed(instruction));
        break;
    case Action::kPop:
        if (register_writes(instruction).has(kEncodedSp))
            out.kind = Kind::kReplaces;
        else
            adds(out, pushed(instruction));
        break;
    case Action::kEnter:
    case Action::kLeave:
        out.kind = Kind::kReplaces;
        break;
    case Action::kBranch:
        jumps(out, Kind::kBranches, instruction);
        break;
    case Action::kJump:
        jumps(out, Kind::kJumps, instruction);
        break;
    case Action::kCall:
    case Action::kIndirectCall:
    case Action::kFarCall:
        out.kind = Kind::kCalls;
        break;
    case Action::kIndirectJump:
    case Action::kFarJump:
        out.kind = Kind::kJumpsByValue;
        break;
    case Action::kReturn:
        out.kind = Kind::kReturns;
        break;
    case Action::kEnd:
        out.kind = Kind::kStops;
        break;
    case Action::kSystemCall: // has the same SP when it returns
    case Action::kByModRm:    // action() never returns it
        break;
    }
    return out;
}

} // namespace dwunw::arch::x86_64
