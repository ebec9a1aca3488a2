// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The frame loop.
#pragma once

#include "arch/arch.h"
#include "unwind/address_space.h"
#include "unwind/registers.h"
#include "unwind/stack_memory.h"

#include <dwunw/unwind.h>

#include <span>

namespace dwunw::unwind {

struct WalkRequest {
    AddressSpace &space;
    const arch::Arch &arch;
    const Registers &registers; // pc (at arch.pc) and SP must be known
    const StackMemory &memory;
    std::span<const dwunw_pending_return> pending_returns;
    std::span<dwunw_frame> frames; // at least one
    bool cfi_only = false;
};

struct WalkResult {
    dwunw_status status = DWUNW_OK; // DWUNW_OK: the walk reached the outermost frame
    size_t written = 0;
    size_t frame_pointer_frames = 0;
    size_t trampoline_frames = 0;
    size_t unmentioned_frames = 0; // DWUNW_FRAME_FLAG_CFA_UNMENTIONED
    size_t no_code_frames = 0;     // DWUNW_FRAME_FLAG_NO_CODE
    bool used_interpreter = false;
};

// Thread-safe if `space` is. Allocates only in the interpreter and in `space.find`.
WalkResult walk(const WalkRequest &request);

} // namespace dwunw::unwind
