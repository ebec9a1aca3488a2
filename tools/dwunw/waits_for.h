// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a reader that hangs is waiting for.
#pragma once

#include <sys/types.h>

#include <string>

namespace dwunw_tool {

// Of a process that reads others: "memory at 0x7f12a000-0x7f12b000" or "/path/of/a/file", by the system call that one
// of its threads is in (proc(5), /proc/PID/syscall), the main thread first. "" where none is in one that reads.
std::string waits_for(pid_t pid);

} // namespace dwunw_tool
