// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An Arch that knows no instruction but a trap: a port in its first state. Nearly every question about code has the
// answer "not known", so the walk has call-frame information only.
#pragma once

#include "arch/arch.h"
#include "arch/made_up/registers.h"

#include <array>

namespace dwunw::arch::made_up {

inline constexpr uint32_t kId = 1000;
inline constexpr uint16_t kMachine = 0xbeef;
inline constexpr std::array<const char *, kRegisterCount> kNames = {
    "r0",  "r1",  "r2",  "r3",  "r4",  "r5",  "r6",  "r7",  "r8",  "r9",  "r10",
    "r11", "r12", "r13", "r14", "r15", "r16", "r17", "r18", "r19", "r20", "r21",
    "r22", "r23", "r24", "r25", "r26", "r27", "r28", "fp",  "lr",  "sp",  "pc"};

using Code = std::span<const uint8_t>;
inline constexpr uint8_t kTrap = 0xcc; // the only instruction that is known

inline const Arch kArch = {
    .id = kId,
    .machine = kMachine,
    .register_count = kRegisterCount,
    .sp = kStackPointer,
    .fp = kFramePointer,
    .ra = kReturnAddress,
    .pc = kProgramCounter,
    .preserved = ((uint64_t{1} << (kFp + 1)) - 1) & ~((uint64_t{1} << kR19) - 1), // r19 … r29
    .names = kNames.data(),
    .max_call_length = 4,
    .ends_in_call = [](Code code) { return code.empty() || code.back() != kTrap; }, // it may be one
    .call_targets = [](Code, std::span<CodeTarget, kMaxCallTargets>) -> size_t { return 0; },
    .call_context = 0,
    .is_jump_stub = [](Code, CodeTarget &, size_t &) { return false; },
    .kernel_code_start = 0,
    .kernel_code_size = 0,
    .leaves_alone = [](Code, uint8_t, std::span<const size_t>) { return false; },
    .follow = [](Code, size_t, std::optional<uint64_t>) { return CodeFlow{}; },
    .result = kR0,
    .find_sp_replacement = [](Code code, size_t) { return code.size(); },
    .find_lost_sp = [](Code, std::span<const SpRow>, std::vector<CodeRange> &) {},
    .direct_call = [](Code) -> std::optional<int64_t> { return std::nullopt; },
    .frame_begins = [](Code, size_t) -> std::optional<size_t> { return std::nullopt; },
    .decode = [](Code) -> std::optional<Instruction> { return std::nullopt; },
    .max_instruction_length = 4,
    .stack_alignment = 16,
    .entry_misalignment = 0,
    .context_end = {},
    .signal_trampoline = {},
    .signal_trampoline_syscall = 0,
    .signal_frame = {},
};

} // namespace dwunw::arch::made_up
