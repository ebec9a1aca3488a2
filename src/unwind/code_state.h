// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// SP and FP along a path of code, without the values that they have in a process:
//
//     push %rbp          SP = SP - 8, and the start's FP is saved at SP - 8
//     mov %rsp, %rbp     FP = SP - 8
//     pop %rbp           SP = SP, FP = the start's FP
//
// Proved by tests/unit/unwind_code_state_test.
#pragma once

#include "arch/arch.h"

#include <cstdint>

namespace dwunw::unwind {

// The value of a register relative to the start of the path: SP or FP at the start plus an offset, or the word at such
// an address.
struct CodeValue {
    enum class Base : uint8_t { kUnknown, kSp, kFp, kAtSp, kAtFp } base = Base::kUnknown;
    int32_t offset = 0;
    bool operator==(const CodeValue &) const = default;
};

struct CodeState {
    CodeValue sp{CodeValue::Base::kSp, 0};
    CodeValue fp{CodeValue::Base::kFp, 0};
    CodeValue saved_fp; // the address at which the start's FP has been saved
    bool operator==(const CodeState &) const = default;
};

// The start's FP.
inline constexpr CodeValue kStartFp{CodeValue::Base::kFp, 0};

// Unknown where the value is no register of the start, or the sum is larger than any frame.
CodeValue plus(CodeValue value, int64_t offset);

// Executes one instruction.
void execute(const arch::Instruction &instruction, CodeState &state);

// The state where two paths meet: what differs is unknown.
CodeState join(const CodeState &a, const CodeState &b);

} // namespace dwunw::unwind
