// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A process that is held still, and the reader that looks at it meanwhile.
//
// Who reads a process's memory or its files can wait for ever: a page of a userfaultfd or of a FUSE file is there when
// somebody answers. No signal but SIGKILL ends that wait, and some of FUSE's not even that. So the reader is a process
// of its own, a child. This one traces, reads nothing of the target's, and can let it go and end at any time. The
// reader's output goes through this process: nobody who waits for the end of our output waits for a reader that hangs.
// tests/integration/no_answer.py proves it.
#pragma once

#include "command.h"

#include <dwunw/process.h>

#include <functional>
#include <vector>

namespace dwunw_tool {

struct HoldOptions {
    double limit = 5; // seconds; 0: none
    bool verbose = false;
};

// --max-hold and --verbose. Returns them, for what they need.
std::vector<CLI::Option *> add_hold_options(CLI::App &command, HoldOptions &options);

// Called by the reader once it has read what it wants of the target: the target runs on. At the latest at its end.
using LetGo = std::function<void()>;

// Stops the process `pid`, runs `work` in a reader, which may print, and returns its exit code. Where it takes longer
// than the limit the target runs on, the reader is killed, and kExitFailure comes with a message that says what the
// reader was waiting for. The map of `process` is of before the stop.
int hold(const HoldOptions &options, int32_t pid, dwunw_process *process,
         const std::function<int(dwunw_stopped *, const LetGo &)> &work);

} // namespace dwunw_tool
