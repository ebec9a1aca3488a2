// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Stops a process while a reader looks at it, for a limited time.
//
//     dwunw (parent)    ptrace: stops the target, lets it run on at any time; reads nothing of the target
//        │ pipes
//     reader (child)    reads the target's memory and files, and may hang; prints through the parent
//
// Reading a process's memory or files can take for ever: a page of a userfaultfd or of a FUSE file is there only once
// someone answers. Only SIGKILL ends that wait, and with FUSE sometimes not even SIGKILL. So the reader is a child. The
// parent can let the target run on and end at any time. The reader's output goes through the parent, so that a program
// that waits for the end of our output does not wait for a reader that hangs. tests/integration/no_answer_test.py
// proves it.
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

// Adds --max-hold and --verbose. Returns them, so that the caller can say what they need.
std::vector<CLI::Option *> add_hold_options(CLI::App &command, HoldOptions &options);

// The reader calls it once it has read everything that it needs of the target. The target then runs on.
using LetGo = std::function<void()>;

// Stops the process `pid`, runs `work` in a reader, which may print, and returns the reader's exit code. If that takes
// longer than the limit, the target runs on, the reader is killed, and the result is kExitFailure, with a message that
// says what the reader was waiting for. The map of `process` was read before the stop.
int hold(const HoldOptions &options, int32_t pid, dwunw_process *process,
         const std::function<int(dwunw_stopped *, const LetGo &)> &work);

} // namespace dwunw_tool
