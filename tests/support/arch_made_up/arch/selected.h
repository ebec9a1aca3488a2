// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stands before src/arch/selected.h when the core is built for an architecture that does not exist: another number of
// registers, return addresses in a link register and signed, wider addresses. Code outside src/arch that takes x86-64
// for granted does not compile for it, or fails tests/unit/arch_made_up_test.
#pragma once

#include "arch/made_up/arch.h"
#include "arch/made_up/core_notes.h"
#include "arch/made_up/register_orders.h"
#include "arch/made_up/registers.h"

namespace dwunw::arch {
namespace selected = made_up;
} // namespace dwunw::arch
