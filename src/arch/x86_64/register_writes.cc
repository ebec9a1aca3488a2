// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds the general registers that an instruction writes, and proves that a function's code does not write one:
//
//     pxor %xmm0, %xmm1; movdqu %xmm1, (%rdi); ret    does not write rax: proved
//     xor %eax, %eax; ret                             writes rax
//     call helper; ret                                not proved: the helper may write rax
//
// The opcode maps say what is written; here are the opcodes whose ModRM or prefix decides. For the proof, an
// instruction whose writes are not all known makes the answer no. So does a call, and a jump out of the function: other
// code is not read.
//
// Bytes are decoded from the first one on. A jump into the middle of an instruction would execute other instructions.
// So every jump target, and every place where the function is known to be entered, must be the beginning of a decoded
// one.
//
// Proved by tests/unit/arch_x86_64_register_writes_test, against a disassembler on the code of whole libraries, and for
// every opcode.
#include "arch/x86_64/register_writes.h"

#include "arch/x86_64/arch.h"

#include <array>
#include <bitset>

namespace dwunw::arch::x86_64 {
namespace {

using Form = Encoding::Form;

constexpr size_t kLargestFunction = 8192;

// An opcode's number in the switch below.
constexpr unsigned behind_0f(unsigned opcode) { return 0x100 + opcode; }

// The traits with the writes that ModRM and prefixes give, and with kListed if these are all.
Traits varying(const Encoding &instruction) {
    const Traits traits = instruction.traits;
    const uint8_t extension = instruction.extension();
    switch (instruction.opcode + 0x100u * instruction.map) {
    case 0x80: // add, or, adc, sbb, and, sub, xor; cmp
    case 0x81:
    case 0x83:
        return extension == 7 ? traits : traits | kWritesRm;
    case 0x90: // xchg with rax
        return instruction.opcode_reg() == 0 ? traits : traits | kWritesOpcodeReg | kWritesRax;
    case 0xc6: // mov
    case 0xc7:
        return traits | kWritesRm | (extension == 0 ? kListed : 0);
    case 0xf6: // test, not, neg, mul, imul, div, idiv
    case 0xf7:
        return traits | (extension <= 1 ? 0 : extension <= 3 ? kWritesRm : kWritesRax | kWritesRdx);
    case 0xff: // inc, dec; push
        return traits | (extension <= 1 ? kListed | kWritesRm : extension == 6 ? kListed : 0);
    case behind_0f(0x00): // sldt, str
        return extension <= 1 ? traits | kWritesRm : traits;
    case behind_0f(0x01): // smsw
        return extension == 4 ? traits | kWritesRm : traits;
    case behind_0f(0x1e): { // nop; behind F3, endbr64, endbr32 and rdssp
        constexpr uint8_t kEndbr = 7;
        const bool is_register = instruction.rm_is_register();
        if (instruction.repeat == 0xf3 && is_register && extension == 1)
            return traits | kWritesRm;
        const bool endbr =
            is_register && extension == kEndbr && ((instruction.rm & 7) == 2 || (instruction.rm & 7) == 3);
        return instruction.repeat == 0 || endbr ? traits | kListed : traits;
    }
    case behind_0f(0x78): // vmread
        return instruction.repeat == 0 && !instruction.operand16 ? traits | kWritesRm : traits;
    case behind_0f(0xae): // fences and their kind; behind F3, rdfsbase and rdgsbase
        if (instruction.repeat == 0xf3)
            return extension <= 1 ? traits | kWritesRm : traits;
        return instruction.repeat == 0 && !instruction.operand16 ? traits | kListed : traits;
    case behind_0f(0xba): // bt; bts, btr, btc
        return extension == 4 ? traits : traits | kWritesRm;
    case behind_0f(0xc7): // rdrand, rdseed, rdpid; behind F3, /6 is senduipi, which reads
        return instruction.repeat == 0xf3 && extension == 6 ? traits : traits | kWritesRm;
    default:
        return traits;
    }
}

// The traits without what only other encodings and prefixes of the opcode have.
Traits conditional(const Encoding &instruction) {
    const Traits traits = instruction.traits;
    if (((traits & kOnlyVex) != 0 && instruction.form != Form::kVex) ||
        ((traits & kOnlyEvex) != 0 && instruction.form != Form::kEvex))
        return 0;
    if (((traits & kBehindRepeat) != 0 && instruction.repeat == 0) ||
        ((traits & kNotBehindF3) != 0 && instruction.repeat == 0xf3))
        return traits & ~kWritesMask;
    return traits;
}

} // namespace

RegisterWrites register_writes(const Encoding &instruction) {
    constexpr Traits kConditions = kBehindRepeat | kNotBehindF3 | kOnlyVex | kOnlyEvex;
    Traits traits = instruction.traits;
    if ((traits & kWritesVary) != 0) {
        if (instruction.action() == Action::kLeave)
            return {1u << kEncodedSp | 1u << kEncodedFp, true};
        traits = varying(instruction);
    } else if ((traits & kConditions) != 0) {
        traits = conditional(instruction);
    }
    const bool complete = (traits & kListed) != 0;
    if ((traits & kWritesMask) == 0)
        return {0, complete};
    // Without REX, the numbers 4 to 7 of byte registers are the second bytes of the first four.
    const unsigned mask = (traits & kOfBytes) != 0 && instruction.rex == 0 ? 3 : 15;
    unsigned registers = (traits & kWritesImplicit) >> kWritesImplicitShift;
    if ((traits & kWritesRm) != 0 && instruction.rm_is_register())
        registers |= 1u << (instruction.rm & mask);
    if ((traits & kWritesReg) != 0)
        registers |= 1u << (instruction.reg & mask);
    if ((traits & kWritesOpcodeReg) != 0)
        registers |= 1u << (instruction.opcode_reg() & mask);
    if ((traits & kWritesVvvv) != 0)
        registers |= 1u << instruction.vvvv;
    return {static_cast<uint16_t>(registers), complete};
}

std::optional<RegisterSum> register_sum(const Encoding &instruction) {
    // REX.W overrides an operand-size prefix.
    if (instruction.form != Form::kLegacy || instruction.map != 0 || !instruction.rex_w())
        return std::nullopt;
    constexpr uint8_t kAdd = 0;
    constexpr uint8_t kSub = 5;
    const auto sum = [](uint8_t to, uint8_t from, int64_t constant) { return RegisterSum{to, from, constant}; };
    const uint8_t reg = instruction.reg;
    const uint8_t rm = instruction.rm;
    switch (instruction.opcode) {
    case 0x81:
    case 0x83:
        if (!instruction.rm_is_register() || (instruction.extension() != kAdd && instruction.extension() != kSub))
            return std::nullopt;
        return sum(rm, rm, instruction.extension() == kAdd ? instruction.immediate : -instruction.immediate);
    case 0x89:
        return instruction.rm_is_register() ? std::optional(sum(rm, reg, 0)) : std::nullopt;
    case 0x8b:
        return instruction.rm_is_register() ? std::optional(sum(reg, rm, 0)) : std::nullopt;
    case 0x8d: // the segment has no effect on an address that is not used
        if (instruction.base == Encoding::kNoRegister || instruction.has_index || instruction.address32)
            return std::nullopt;
        return sum(reg, instruction.base, instruction.displacement);
    default:
        return std::nullopt;
    }
}

bool leaves_alone(std::span<const uint8_t> code, uint8_t reg, std::span<const size_t> entered_at) {
    if (code.size() > kLargestFunction || reg >= kEncoded.size())
        return false;
    std::bitset<kLargestFunction> begins;
    std::bitset<kLargestFunction> reached;
    for (const size_t entry : entered_at) {
        if (entry >= code.size())
            return false;
        reached.set(entry);
    }
    bool ends = false;
    for (size_t at = 0; at < code.size();) {
        Encoding instruction;
        if (!read_encoding(code.subspan(at), instruction))
            return false;
        // No compiler writes these forms.
        if (instruction.address32 || instruction.idle_rex || instruction.apx)
            return false;
        const RegisterWrites writes = register_writes(instruction);
        if (!writes.complete || writes.has(kEncoded[reg]))
            return false;
        begins.set(at);
        at += instruction.length;
        const Action action = instruction.action();
        const bool jumps = action == Action::kJump || action == Action::kBranch;
        ends = action == Action::kJump || action == Action::kReturn || action == Action::kEnd;
        if (!jumps)
            continue;
        const int64_t target = static_cast<int64_t>(at) + instruction.immediate;
        // Behind an operand-size prefix, processors differ in what they do.
        if (instruction.operand16 || target < 0 || target >= static_cast<int64_t>(code.size()))
            return false;
        reached.set(static_cast<size_t>(target));
    }
    return ends && (reached & ~begins).none();
}

} // namespace dwunw::arch::x86_64
