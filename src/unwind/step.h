// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One step of a walk: from a frame's registers to those of the frame outside it. Each way is a function
// of its own: a rule of the compiled table (SP, FP and RA only), the full CFI interpreter (all registers), and, without
// CFI, a signal frame, a return instruction; what else is certain without CFI is in frame_by_code.h. Each changes
// `registers` only when it succeeds.
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
    uint64_t cfa = 0;             // of the inner frame; 0 where it was not computed
    uint64_t return_slot = 0;     // where the outer pc was read from; 0 when it was not in memory
    bool signal_frame = false;    // the inner frame is a signal trampoline
    bool register_kept = false;   // DWUNW_FRAME_FLAG_REGISTER_KEPT
    bool cfa_unmentioned = false; // DWUNW_FRAME_FLAG_CFA_UNMENTIONED
    bool no_code = false;         // DWUNW_FRAME_FLAG_NO_CODE
};

// `pc` is the frame's own; `registers` must know SP.
Step step_by_rule(const Rule &rule, const arch::Arch &arch, RunAddr pc, const StackMemory &memory,
                  Registers &registers);

Step step_by_interpreter(const ModuleCfi &module, const arch::Arch &arch, CodeAddr pc, LoadBias bias,
                         const StackMemory &memory, Registers &registers);

// The registers a signal frame without CFI saved.
Step step_by_signal_trampoline(const arch::Arch &arch, const StackMemory &memory, Registers &registers);

// The address that SP points to, at a return instruction.
Step step_by_return_instruction(const arch::Arch &arch, const StackMemory &memory, Registers &registers);

// From a pc that is no code: the caller, where a call must have led there. SP then points to the return address, and
// every register is what it was at the call. Accepted only if that address has a call before it which went to `pc`, as
// far as its operand can be read, and if no `ret` can have led to `pc` instead. `original`: what stood where SP points,
// if that is a pending return. DWUNW_ERR_NO_MAPPING where it is not accepted; why a word that decides cannot be read.
Step step_by_call(const arch::Arch &arch, AddressSpace &space, RunAddr pc, const StackMemory &memory,
                  std::optional<uint64_t> original, Registers &registers);

// Whether the frame at `inner`, an instruction, has the value of register `reg` that its caller, which `outer` returns
// to, had at the call: no rule mentions the register, the call before `outer` is one of the function at `inner`, and
// the code of that function neither writes the register nor leaves the function. Both are in the module at `location`.
bool is_unwritten(const arch::Arch &arch, AddressSpace &space, const CodeLocation &location, RunAddr inner,
                  RunAddr outer, uint8_t reg);

// How far above SP a CFA may be that comes from such a register.
inline constexpr uint64_t kLargestUnmentionedFrame = uint64_t{1} << 20;

// Whether a call can end at `address`; false: it is no return address. Nothing where the code cannot be read.
std::optional<bool> follows_call(const arch::Arch &arch, AddressSpace &space, RunAddr address);

// The most between SP and FP that is searched for a return address; a larger frame is none.
inline constexpr uint64_t kSearchedFrame = uint64_t{1} << 16;

// Whether a word in [sp, fp) may be a return address; nullopt where that cannot be told. `read` gives the word at a
// slot as an optional or a Result; `is_call` whether a call can end at an address, nullopt where it cannot tell.
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
