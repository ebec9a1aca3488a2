// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Checks a chain of return addresses that another walk found by following frame pointers, as the kernel does for
// bpf_get_stackid. Such a walk takes every value of the frame-pointer register for a frame. Where the register holds
// data, it reports numbers that are not code. Where a function has no frame of its own, it leaves the caller out.
#pragma once

#include "arch/arch.h"
#include "unwind/address_space.h"

#include <dwunw/unwind.h>

#include <cstdint>
#include <span>

namespace dwunw::unwind {

// Checks every address. `frames` has room for all of them; each is written with its module. Returns the number of
// certain frames, from the innermost on: the call-frame information says that the step to each is a frame-pointer step.
// At least 1 if the chain is not empty. Errors (value: the address): DWUNW_ERR_NO_MAPPING, no code is mapped there;
// DWUNW_ERR_UPROBE_TRAMPOLINE; DWUNW_ERR_NOT_FOUND, no call instruction ends there, or the code cannot be read.
Result<size_t> check_frame_chain(const arch::Arch &arch, AddressSpace &space, std::span<const uint64_t> addresses,
                                 std::span<dwunw_frame> frames);

} // namespace dwunw::unwind
