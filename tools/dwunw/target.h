// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The live process of a command, and in words why a command cannot read it.
#pragma once

#include <dwunw/dwunw_api.h>
#include <dwunw/process.h>

#include "command.h"

#include <cstdint>
#include <optional>

namespace dwunw_tool {

using Process = Handle<dwunw_process, dwunw_process_close>;
using Stopped = Handle<dwunw_stopped, dwunw_process_resume>;

// The thread by which to open the process `pid`: the process itself, unless its main thread has ended before the
// others, because the process's own /proc files are then empty. If the process does not exist or has no user stack,
// fails and says why.
std::optional<int32_t> thread_to_open(int32_t pid);

// Opens the process `pid` by thread_to_open(). False: it failed and said why.
bool open_process(dwunw_context *context, int32_t pid, Process &process);

// fail(), with the meaning of a status for a process.
int fail_process(int32_t pid, dwunw_status status);

} // namespace dwunw_tool
