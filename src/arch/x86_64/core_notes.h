// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The registers of a stopped thread: NT_PRSTATUS and NT_FPREGSET, in a core file and from ptrace.
#pragma once

#include <cstddef>
#include <optional>

namespace dwunw::arch::x86_64 {

// NT_PRSTATUS's registers, in words: r15 … ss as in struct pt_regs, then fs_base gs_base ds es fs gs.
inline constexpr size_t kCoreRegisters = 27;
inline constexpr size_t kCorePc = 16;
inline constexpr size_t kCoreSp = 19;
// Where the thread's control block is; nullopt: NT_PRSTATUS does not say.
inline constexpr std::optional<size_t> kCoreThreadBlock = 21; // fs_base

inline constexpr size_t kFpRegisterBytes = 512; // FXSAVE's area

} // namespace dwunw::arch::x86_64
