// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What src/probe needs of the architecture, beside selected.h.
#pragma once

#include "arch/selected.h"

#if defined(__x86_64__)
#include "arch/x86_64/probed_instruction.h"
#include "arch/x86_64/relocations.h"
#endif
