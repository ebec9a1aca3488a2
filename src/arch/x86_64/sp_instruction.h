// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Decodes one x86-64 instruction for its effect on SP and the pc (Intel SDM, volume 2, chapter 2 and appendix A).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dwunw::arch::x86_64 {

struct SpInstruction {
    enum class Kind : uint8_t {
        kOther,        // does not change SP; the next instruction follows
        kAdds,         // SP = SP + value
        kReplaces,     // SP becomes an unknown value
        kCalls,        // SP is unchanged once the call has returned
        kReturns,      // pops the return address that SP points to
        kJumps,        // to `value` bytes behind the instruction
        kBranches,     // to there, or to the next instruction
        kJumpsByValue, // to the address in a register or in memory
        kStops,        // goes to an unknown place, or nowhere: the next instruction is not its continuation
        kUnknown,      // not a known instruction
    } kind = Kind::kUnknown;
    uint8_t length = 0; // 0 for kUnknown
    int64_t value = 0;
};

// The instruction at the beginning of `code`. A write of a part of SP is kReplaces. Instructions with VEX, EVEX and XOP
// count as not writing SP.
SpInstruction decode_sp_instruction(std::span<const uint8_t> code);

} // namespace dwunw::arch::x86_64
