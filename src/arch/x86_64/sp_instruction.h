// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One x86-64 instruction, as far as SP and the pc are concerned (Intel SDM, volume 2, chapter 2 and appendix A).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dwunw::arch::x86_64 {

struct SpInstruction {
    enum class Kind : uint8_t {
        kOther,        // leaves SP alone and goes on with the next instruction
        kAdds,         // SP = SP + value
        kReplaces,     // SP becomes something that no constant tells
        kCalls,        // SP is the same once the call has returned
        kReturns,      // pops the return address that SP points to
        kJumps,        // to `value` bytes behind the instruction
        kBranches,     // to there, or to the next instruction
        kJumpsByValue, // to where a register or memory says
        kStops,        // goes where no instruction says, or nowhere: the next instruction is no continuation of it
        kUnknown,      // no instruction that is known
    } kind = Kind::kUnknown;
    uint8_t length = 0; // 0 for kUnknown
    int64_t value = 0;
};

// The instruction that `code` begins with. A write of a part of SP is kReplaces. Instructions behind VEX, EVEX and XOP
// are taken to leave SP alone.
SpInstruction decode_sp_instruction(std::span<const uint8_t> code);

} // namespace dwunw::arch::x86_64
