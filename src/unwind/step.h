// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One step of a walk: from a frame's registers to those of its caller. Each way is a function: a rule of the compiled
// table (SP, FP and RA only), the full CFI interpreter (all registers), and, without CFI, a signal frame or a return
// instruction. frame_by_code.h has the other steps without CFI. Each function changes `registers` only if it succeeds.
#pragma once

#include "unwind/address_space.h"
#include "unwind/module_cfi.h"
#include "unwind/registers.h"
#include "unwind/stack_memory.h"

#include <optional>

namespace dwunw::unwind {

struct Step {
    enum class Outcome : uint8_t {
        kFrame,            // registers are the outer frame's
        kRoot,             // the frame is the outermost one
        kStopped,          // `status` says why
        kNeedsInterpreter, // a table rule that needs more than SP and FP
    } outcome = Outcome::kStopped;
    dwunw_status status = DWUNW_OK;
    uint64_t cfa = 0;             // of the inner frame; 0: not computed
    uint64_t return_slot = 0;     // the stack address of the outer pc; 0: it was not in memory
    bool signal_frame = false;    // the inner frame is a signal trampoline
    bool register_kept = false;   // DWUNW_FRAME_FLAG_REGISTER_KEPT
    bool cfa_unmentioned = false; // DWUNW_FRAME_FLAG_CFA_UNMENTIONED
    bool no_code = false;         // DWUNW_FRAME_FLAG_NO_CODE
};

// `pc` is the frame's own. SP must be known in `registers`.
Step step_by_rule(const Rule &rule, const arch::Arch &arch, RunAddr pc, const StackMemory &memory,
                  Registers &registers);

Step step_by_interpreter(const ModuleCfi &module, const arch::Arch &arch, CodeAddr pc, LoadBias bias,
                         const StackMemory &memory, Registers &registers);

// By the registers that a signal frame without CFI has saved.
Step step_by_signal_trampoline(const arch::Arch &arch, const StackMemory &memory, Registers &registers);

// By the address at SP, for a thread at a return instruction.
Step step_by_return_instruction(const arch::Arch &arch, const StackMemory &memory, Registers &registers);

// From a pc that is not code to the caller. A call must have led there; then SP points to the return address, and every
// register has its value of the call. Accepted only if that address follows a call which went to `pc`, as far as its
// operand can be read, and if no `ret` can have led to `pc`. `original`: the word at SP, if a pending return has
// replaced it. DWUNW_ERR_NO_MAPPING: not accepted. Other errors: a word that decides cannot be read.
Step step_by_call(const arch::Arch &arch, AddressSpace &space, RunAddr pc, const StackMemory &memory,
                  std::optional<uint64_t> original, Registers &registers);

// Whether register `reg` has the same value in the frame at `inner`, an instruction, as in its caller, to which `outer`
// returns. True if no rule mentions the register, the call before `outer` is a direct call of the function at `inner`,
// and that function's code neither writes the register nor leaves the function. Both are in the module at `location`.
bool is_unwritten(const arch::Arch &arch, AddressSpace &space, const CodeLocation &location, RunAddr inner,
                  RunAddr outer, uint8_t reg);

// The largest distance from SP to a CFA that comes from such a register.
inline constexpr uint64_t kLargestUnmentionedFrame = uint64_t{1} << 20;

// Whether a call can end at `address`. False: it is not a return address. nullopt: the code cannot be read.
std::optional<bool> follows_call(const arch::Arch &arch, AddressSpace &space, RunAddr address);

// The most bytes between SP and FP that are searched for a return address. A larger frame is not accepted.
inline constexpr uint64_t kSearchedFrame = uint64_t{1} << 16;

// Whether a word in [sp, fp) may be a return address; nullopt: not known. `read` gives the word at a slot, as an
// optional or a Result. `is_call` says whether a call can end at an address; nullopt: not known.
template <typename Read, typename IsCall>
std::optional<bool> may_be_callers(AddressSpace &space, RunAddr sp, RunAddr fp, Read read, IsCall is_call) {
    if (fp - sp > kSearchedFrame)
        return true;
    for (RunAddr slot = sp; slot < fp; slot = slot + sizeof(uint64_t)) {
        const auto word = read(slot);
        if (!word)
            return std::nullopt;
        if (!space.is_code(RunAddr(*word) - 1))
            continue;
        const std::optional<bool> called = is_call(RunAddr(*word));
        if (!called || *called)
            return called;
    }
    return false;
}

} // namespace dwunw::unwind
