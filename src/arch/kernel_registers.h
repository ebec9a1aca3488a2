// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Registers as the kernel hands them over: those of a stopped thread, of a core file, and of a BPF program.
#pragma once

#include "arch/selected.h"

#include <dwunw/unwind.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace dwunw::arch {

// NT_PRSTATUS's. They begin with struct pt_regs.
using CoreRegisters = std::array<uint64_t, selected::kCoreRegisters>;

// The register set of `words`, which begin with struct pt_regs. Neither allocates nor locks.
inline dwunw_regset regset_of(std::span<const uint64_t> words) {
    dwunw_regset regs = {};
    regs.size = sizeof(regs);
    regs.arch = selected::kArch.id;
    for (size_t i = 0; i < std::min(words.size(), selected::kPtRegs.size()); ++i) {
        const uint8_t reg = selected::kPtRegs[i];
        if (reg == selected::kNone)
            continue;
        regs.regs[reg] = words[i];
        regs.valid |= uint64_t{1} << reg;
    }
    return regs;
}

} // namespace dwunw::arch
