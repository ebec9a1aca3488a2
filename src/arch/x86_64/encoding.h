// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The parts of one x86-64 instruction: its prefixes, opcode, ModRM, SIB, displacement and immediate.
//
//     48 83 ec 18    sub $0x18, %rsp       rex W, opcode 83, mod 3, reg 5 (sub), rm 4 (rsp), immediate 0x18
//     48 89 6c 24 20 mov %rbp, 0x20(%rsp)  rex W, opcode 89, mod 1, reg 5 (rbp), base 4 (rsp), displacement 0x20
//
// What the instruction means is asked elsewhere: instruction.cc, sp_instruction.h and register_writes.h. Pure functions
// of their arguments; no allocation.
#pragma once

#include "arch/x86_64/opcodes.h"

#include <cstdint>
#include <span>

namespace dwunw::arch::x86_64 {

// Register numbers are those of instructions (kDecoded of arch.h gives DWARF's), with the bits of REX, VEX, EVEX or XOP
// in them.
struct Encoding {
    static constexpr uint8_t kNoRegister = 0xff;
    static constexpr uint8_t kRegisterMode = 3; // `mod`: rm is a register

    enum class Form : uint8_t { kLegacy, kVex, kEvex, kXop } form = Form::kLegacy;
    uint8_t map = 0; // kLegacy: the prefix 0F is map 1, 0F 38 is 2, 0F 3A is 3; others: their map number
    uint8_t opcode = 0;
    uint8_t length = 0;
    Traits traits = 0;

    uint8_t rex = 0;        // 0x40 and its bits W, R, X, B; 0: none. VEX, EVEX and XOP have these bits too
    uint8_t repeat = 0;     // the last prefix F2 or F3
    bool operand16 = false; // prefix 66
    bool address32 = false; // prefix 67
    bool segment = false;   // prefix 64 or 65: fs or gs
    bool idle_rex = false;  // a REX prefix that is not directly before the opcode has no effect
    bool apx = false;       // EVEX with bits that only APX and AVX10 give a meaning
    uint8_t vvvv = 0;

    // With kModRm in `traits`.
    uint8_t mod = 0;
    uint8_t reg = 0;
    uint8_t rm = 0;
    uint8_t base = kNoRegister; // of a memory operand; none: rip, or an absolute address
    bool has_index = false;
    int32_t displacement = 0;

    int64_t immediate = 0; // with its sign; without a value if the size is 3

    bool rex_w() const { return (rex & 8) != 0; }
    bool rm_is_register() const { return mod == kRegisterMode; }
    // ModRM.reg where it continues the opcode.
    uint8_t extension() const { return reg & 7; }
    // The register that the opcode's last three bits name.
    uint8_t opcode_reg() const { return static_cast<uint8_t>((opcode & 7) | (rex & 1) << 3); }
    bool is(unsigned its_map, unsigned its_opcode) const {
        return opcode == its_opcode && map == its_map && form == Form::kLegacy;
    }
    Action action() const {
        const auto action = static_cast<Action>(traits >> kActionShift);
        return action == Action::kByModRm ? action_of_ff() : action;
    }

  private:
    Action action_of_ff() const;
};

// Reads the instruction at the beginning of `code` into `out`, which is fresh. False: there is none, or it is cut.
// Bytes that every processor refuses as undefined are none, as far as the opcode maps say so.
bool read_encoding(std::span<const uint8_t> code, Encoding &out);

} // namespace dwunw::arch::x86_64
