// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A step where no CFI covers the pc, proved by the code itself. frame_by_code.cc says what counts as a proof.
#pragma once

#include "unwind/code_paths.h"
#include "unwind/step.h"

#include <optional>

namespace dwunw::unwind {

// The inner frame: the function that was called and has not returned yet.
struct InnerFrame {
    CodeAddr pc = CodeAddr::instruction(RunAddr(0));
    RunAddr sp;
    RunAddr cfa;
};

struct FrameByCode {
    Step step;
    bool by_frame_pointer = false;
    // The answer of the code alone about a frame-pointer step at this pc; it is valid as long as the code is unchanged.
    // kIsSetUp: the step is right if a call precedes the return address. kIfAlone: in addition, no word between SP and
    // FP may be a return address. nullopt: it depends on more.
    enum class FramePointer : uint8_t { kIsSetUp, kIfAlone };
    std::optional<FramePointer> frame_pointer;
};

// `paths` keeps nothing between steps; the caller passes it for its memory. DWUNW_ERR_NO_CFI: nothing decides.
// DWUNW_ERR_SLICE_EXHAUSTED, DWUNW_ERR_MEMORY_UNREADABLE: the part of the stack that would decide cannot be read.
FrameByCode step_by_code(const arch::Arch &arch, AddressSpace &space, CodePaths &paths, CodeAddr pc,
                         const std::optional<InnerFrame> &inner, const StackMemory &memory, Registers &registers);

} // namespace dwunw::unwind
