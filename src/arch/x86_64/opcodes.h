// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The opcode maps of x86-64: one table for each map, one word of traits for each opcode. A trait says what follows the
// opcode, which registers the instruction writes, and what it does to the stack or the pc.
//
//     kOneByte[0x69] = kModRm | kImmediateOperand | kWritesReg | kListed     imul $imm, r/m, reg
//     k0f[0x84]      = kImmediate4 | act(Action::kBranch) | kListed          je
//
// Constants; any thread may read them.
#pragma once

#include <array>
#include <cstdint>

namespace dwunw::arch::x86_64 {

using Traits = uint32_t;
using OpcodeMap = std::array<Traits, 256>;

// What an instruction does to the stack or the pc.
enum class Action : uint8_t {
    kNothing,
    kPush,
    kPop,
    kEnter,
    kLeave,
    kBranch,       // to the next instruction, or to the target
    kJump,         // to the target
    kCall,         // of the target
    kIndirectCall, // of an address in a register or in memory
    kIndirectJump, // likewise
    kFarCall,
    kFarJump,
    kReturn,
    kSystemCall,
    kEnd,     // goes to an unknown place, or nowhere
    kByModRm, // ModRM.reg decides: opcode FF
};

// --- the bytes of the instruction
inline constexpr Traits kModRm = 1u << 0;
inline constexpr Traits kPrefix = 1u << 1;
inline constexpr Traits kUndefined = 1u << 2;       // no instruction in 64-bit mode
inline constexpr Traits kPartlyUndefined = 1u << 3; // ModRM decides
inline constexpr Traits kEscape = 1u << 22; // to another map: 0F, VEX, EVEX, and XOP, which shares its byte with pop
inline constexpr Traits kOnlyRegisters = 1u << 23; // for every value of ModRM.mod
// An immediate's size: up to four bytes, or one of the others.
inline constexpr unsigned kImmediateShift = 4;
inline constexpr Traits kImmediate1 = 1u << kImmediateShift;
inline constexpr Traits kImmediate2 = 2u << kImmediateShift;
inline constexpr Traits kImmediate3 = 3u << kImmediateShift;
inline constexpr Traits kImmediate4 = 4u << kImmediateShift;
inline constexpr Traits kImmediateOperand = 5u << kImmediateShift; // 4 bytes, or 2 with an operand-size prefix
inline constexpr Traits kImmediateWhole = 6u << kImmediateShift;   // likewise, or 8 with REX.W
inline constexpr Traits kImmediateAddress = 7u << kImmediateShift; // 8 bytes, or 4 with an address-size prefix
inline constexpr Traits kImmediateOfTest = 8u << kImmediateShift;  // only /0 and /1 have one: a byte, or the operand's
inline constexpr Traits kImmediateOfExtrq = 9u << kImmediateShift; // 2 bytes, behind 66 or F2
inline constexpr Traits kImmediateMask = 15u << kImmediateShift;

// --- the general registers that the instruction writes, apart from SP by a push or a pop
inline constexpr Traits kWritesRm = 1u << 8;  // the operand of ModRM.rm, where that is a register
inline constexpr Traits kWritesReg = 1u << 9; // the operand of ModRM.reg
inline constexpr Traits kWritesOpcodeReg = 1u << 10;
inline constexpr Traits kWritesVvvv = 1u << 11;
inline constexpr unsigned kWritesImplicitShift = 12; // by the registers' numbers
inline constexpr Traits kWritesRax = 1u << kWritesImplicitShift;
inline constexpr Traits kWritesRcx = 2u << kWritesImplicitShift;
inline constexpr Traits kWritesRdx = 4u << kWritesImplicitShift;
inline constexpr Traits kWritesImplicit = 7u << kWritesImplicitShift;
inline constexpr Traits kWritesMask = 127u << 8;
// Conditions of these writes.
inline constexpr Traits kOfBytes = 1u << 15;      // the operand is a byte: ah for number 4, if there is no REX prefix
inline constexpr Traits kBehindRepeat = 1u << 16; // only with a prefix F2 or F3
inline constexpr Traits kNotBehindF3 = 1u << 17;
inline constexpr Traits kOnlyVex = 1u << 18; // with another encoding, the opcode is not known to write anything
inline constexpr Traits kOnlyEvex = 1u << 19;
inline constexpr Traits kWritesVary = 1u << 20; // register_writes.cc decides
// All writes of general registers are stated, also those without an operand; and the instruction calls nothing, neither
// a function nor the kernel.
inline constexpr Traits kListed = 1u << 21;

inline constexpr unsigned kActionShift = 28;
constexpr Traits act(Action action) { return static_cast<Traits>(action) << kActionShift; }

// The opcodes behind prefixes 0F, 0F 38 and 0F 3A. VEX and EVEX have map numbers instead.
extern const OpcodeMap kOneByte;
extern const OpcodeMap k0f;
extern const OpcodeMap k0f38;
extern const OpcodeMap k0f3a;
// nullptr: no such map.
const OpcodeMap *vector_map(unsigned number);
const OpcodeMap *xop_map(unsigned number);

} // namespace dwunw::arch::x86_64
