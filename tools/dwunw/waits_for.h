// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds what a hanging reader waits for.
#pragma once

#include <sys/types.h>

#include <string>

namespace dwunw_tool {

// For a process that reads other processes: "memory at 0x7f12a000-0x7f12b000" or "/path/of/a/file", by the system call
// of one of its threads (proc(5), /proc/PID/syscall), the main thread first. "": no thread is in a call that reads.
std::string waits_for(pid_t pid);

} // namespace dwunw_tool
