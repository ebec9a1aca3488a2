// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What is true of a chain of return addresses that somebody else found by following frame pointers, as the kernel does
// for bpf_get_stackid. That walk takes every value of the frame-pointer register for a frame: where the register holds
// data it reports numbers that are no code, and where a function has no frame of its own it leaves the caller out.
#pragma once

#include "arch/arch.h"
#include "unwind/address_space.h"

#include <dwunw/unwind.h>

#include <cstdint>
#include <span>

namespace dwunw::unwind {

// Looks at every address. `frames` has room for as many; each is written with its module and place.
// The result is how many of the frames, from the innermost on, are certain: the call-frame information
// says that the step to each is one by frame pointer. At least 1 for a chain that is not empty.
// Errors (value: the address): DWUNW_ERR_NO_MAPPING, no code is mapped there; DWUNW_ERR_UPROBE_TRAMPOLINE;
// DWUNW_ERR_NOT_FOUND, no call instruction ends there, or the code cannot be read.
Result<size_t> check_frame_chain(const arch::Arch &arch, AddressSpace &space, std::span<const uint64_t> addresses,
                                 std::span<dwunw_frame> frames);

} // namespace dwunw::unwind
