// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What src/arch/x86_64/core_notes.h has.
#pragma once

#include <cstddef>
#include <optional>

namespace dwunw::arch::made_up {

inline constexpr size_t kCoreRegisters = 34; // r0 … r30, SP, the pc, the flags
inline constexpr size_t kCorePc = 32;
inline constexpr size_t kCoreSp = 31;
inline constexpr std::optional<size_t> kCoreThreadBlock = std::nullopt;
inline constexpr size_t kFpRegisterBytes = 528;

} // namespace dwunw::arch::made_up
