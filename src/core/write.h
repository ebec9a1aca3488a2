// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Writing a core file of a live, stopped process: an ordinary one, with little in it.
#pragma once

#include "process/process.h"
#include "process/stopped.h"

namespace dwunw::core {

// `stack_bytes` of each stack, from DWUNW_RED_ZONE below SP upward, in whole pages; 0: all of it. Writes to `fd`
// sequentially. A thread without registers is left out. On any thread, also in a child of the tracer.
// DWUNW_ERR_NO_PROCESS; where no thread has registers, the reason of one; DWUNW_ERR_INVALID_ARGUMENT without a live
// process; DWUNW_ERR_LIMIT; DWUNW_ERR_WRITE with the errno.
Status write_core(process::Process &process, const process::StoppedThreads &stopped, uint64_t stack_bytes, int fd);

} // namespace dwunw::core
