// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The relocations that fill the slots through which code jumps (psABI, table 4.9).
#pragma once

#include <elf.h>

#include <cstdint>

namespace dwunw::arch::x86_64 {

inline constexpr uint32_t kGlobalSlot = R_X86_64_GLOB_DAT;        // a symbol's address
inline constexpr uint32_t kJumpSlot = R_X86_64_JUMP_SLOT;         // a function's address
inline constexpr uint32_t kRelativeSlot = R_X86_64_RELATIVE;      // an address in the file itself
inline constexpr uint32_t kIndirectRelative = R_X86_64_IRELATIVE; // what the function at that address returns

} // namespace dwunw::arch::x86_64
