// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the core needs of src/arch/x86_64/register_orders.h.
#pragma once

#include "arch/made_up/registers.h"

#include <array>

namespace dwunw::arch::made_up {

inline constexpr uint8_t kNone = 0xff;
// r0 … r30, SP, the pc, the flags.
inline constexpr std::array<uint8_t, 34> kPtRegs = [] {
    std::array<uint8_t, 34> order{};
    for (uint8_t i = 0; i < kRegisterCount; ++i)
        order[i] = i;
    order.back() = kNone;
    return order;
}();

} // namespace dwunw::arch::made_up
