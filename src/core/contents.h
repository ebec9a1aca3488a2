// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Chooses the memory of a stopped process that a small core file holds.
#pragma once

#include "core/layout.h"
#include "process/process.h"
#include "process/stopped.h"

#include <span>
#include <vector>

namespace dwunw::core {

// A thread with registers.
struct CoreThread {
    pid_t tid = 0;
    arch::CoreRegisters registers{};
    std::span<const uint8_t> fp_registers; // the stopped thread's
};

// A segment of the core: a part of a mapping that is written, or one that is only described.
struct CorePiece {
    RunAddr start;
    RunAddr end;
    bool held = false;
    const process::Mapping *mapping = nullptr; // of the snapshot
};

// The pieces, ascending. Parts of a file's mapping or of executable memory that are left out are described; parts of
// other memory are absent. Reads every byte that the core will hold once, and leaves out what cannot be read.
std::vector<CorePiece> choose_contents(process::Process &process, const process::Snapshot &snapshot,
                                       const std::vector<CoreThread> &threads, uint64_t stack_bytes);

} // namespace dwunw::core
