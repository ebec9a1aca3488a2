// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Writes a core file of a live, stopped process: an ordinary core with few contents.
#pragma once

#include "process/process.h"
#include "process/stopped.h"

namespace dwunw::core {

// Writes `stack_bytes` of each stack, from DWUNW_RED_ZONE below SP upward, in whole pages; 0: the whole stack. Writes
// to `fd` sequentially. Leaves out a thread without registers. Any thread may call it, also one in a child of the
// tracer. DWUNW_ERR_NO_PROCESS; if no thread has registers, the reason of one; DWUNW_ERR_INVALID_ARGUMENT: not a live
// process; DWUNW_ERR_LIMIT; DWUNW_ERR_WRITE with the errno.
Status write_core(process::Process &process, const process::StoppedThreads &stopped, uint64_t stack_bytes, int fd);

} // namespace dwunw::core
