// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A rule: how to get from one frame to its caller, for the three registers of the fast walk: SP, FP and RA.
//
//     after `push rbp`:   CFA = SP + 16     RA = [CFA − 8]     FP = [CFA − 16]
//
// Each kind is an equation. [x] is the 8 bytes at x. Registers on the right are the inner frame's. The outer SP is the
// CFA.
#pragma once

#include "arch/arch.h"
#include "base/result.h"
#include "dwarf/cfi_program.h"

#include <cstdint>
#include <type_traits>

namespace dwunw::unwind {

enum class CfaKind : uint8_t {
    kRegister,   // CFA = reg + cfa_offset; reg may be one that the fast walk does not carry: carries_cfa()
    kDeref,      // CFA = [reg + cfa_offset] + cfa_addend
    kPlt,        // CFA = reg + cfa_offset + ((pc & 15) ≥ cfa_addend ? 8 : 0)
    kExpression, // CFA = the FDE's expression, for the interpreter
    kLost,       // no CFA: the row says SP + n, but the code has moved SP elsewhere (lost_sp.h)
};

enum class ValueKind : uint8_t {
    kSame,          // value = register (also if no rule mentions it)
    kUndefined,     // no value; for RA: the outermost frame
    kAtCfa,         // value = [CFA + offset]
    kCfaPlus,       // value = CFA + offset
    kRegister,      // value = reg
    kAtRegister,    // value = [reg + offset]   (DWARF writes it as an expression)
    kExpression,    // value = [the FDE's expression]
    kValExpression, // value = the FDE's expression
};

struct Rule {
    CfaKind cfa_kind = CfaKind::kRegister;
    uint8_t cfa_reg = 0;
    ValueKind ra_kind = ValueKind::kSame;
    uint8_t ra_reg = 0;
    ValueKind fp_kind = ValueKind::kSame;
    uint8_t fp_reg = 0;
    bool signal_frame = false;
    // The rule needs an evaluator, or a register that the fast walk does not carry, for something other than a CFA of
    // kRegister.
    bool needs_interpreter = false;
    int32_t cfa_offset = 0;
    int32_t cfa_addend = 0;
    int32_t ra_offset = 0;
    int32_t fp_offset = 0;

    bool operator==(const Rule &) const = default;
    // Whether the fast walk carries the CFA's register from frame to frame.
    bool carries_cfa(const arch::Arch &arch) const { return cfa_reg == arch.sp || cfa_reg == arch.fp; }
};
static_assert(sizeof(Rule) == 24);
static_assert(std::has_unique_object_representations_v<Rule>); // hashed by its bytes

// The rule of one row. Expression offsets in `state` refer to `section`. DWUNW_ERR_CFI_MALFORMED: the row defines no
// CFA, or the CIE's return address register is not the architecture's. DWUNW_ERR_LIMIT (value: the offset): an offset
// does not fit 32 bits.
Result<Rule> make_rule(const dwarf::TableState &state, const dwarf::Cie &cie, std::span<const uint8_t> section,
                       const arch::Arch &arch);

} // namespace dwunw::unwind
