// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The architecture for which this library is built: its numbers as constants, so that hot code has no indirection. Code
// outside src/arch writes arch::selected::kRegisterCount, and names no architecture.
//
// tests/support/arch_made_up has another file of this name, which stands before this one when the core is built for a
// made-up architecture.
#pragma once

#if defined(__x86_64__)
#include "arch/x86_64/arch.h"
#include "arch/x86_64/core_notes.h"
#include "arch/x86_64/register_orders.h"
#include "arch/x86_64/registers.h"
namespace dwunw::arch {
namespace selected = x86_64;
} // namespace dwunw::arch
#else
#error "no port to this architecture: CONTRIBUTING.md, An architecture"
#endif
