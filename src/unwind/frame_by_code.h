// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A step where no CFI covers the pc: by what the code itself does, and only where that is certain. frame_by_code.cc
// says what certain is.
#pragma once

#include "unwind/code_paths.h"
#include "unwind/step.h"

#include <optional>

namespace dwunw::unwind {

// The frame inside: what has been called, and has not returned yet.
struct InnerFrame {
    CodeAddr pc = CodeAddr::instruction(RunAddr(0));
    RunAddr sp;
    RunAddr cfa;
};

struct FrameByCode {
    Step step;
    bool by_frame_pointer = false;
    // What the code alone says of a frame-pointer step at this pc, the same for as long as the code is: it is one
    // wherever a call precedes the return address; or also no word between SP and FP must be one. Nothing where that
    // depends on more.
    enum class FramePointer : uint8_t { kIsSetUp, kIfAlone };
    std::optional<FramePointer> frame_pointer;
};

// `paths` keeps nothing from one step to the next; it is handed in for its memory. DWUNW_ERR_NO_CFI where nothing
// decides; DWUNW_ERR_SLICE_EXHAUSTED or DWUNW_ERR_MEMORY_UNREADABLE where the stack that would decide cannot be read.
FrameByCode step_by_code(const arch::Arch &arch, AddressSpace &space, CodePaths &paths, CodeAddr pc,
                         const std::optional<InnerFrame> &inner, const StackMemory &memory, Registers &registers);

} // namespace dwunw::unwind
