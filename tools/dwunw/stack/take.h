// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Takes the stacks of all threads of a process or a core. The frames refer to modules of the context.
#pragma once

#include <dwunw/core.h>
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include <cstdint>
#include <string>
#include <vector>

namespace dwunw_tool {

constexpr uint64_t kDefaultFrames = 256;    // as eu-stack
constexpr uint64_t kMaxFrames = 1ull << 26; // the limit of "unlimited": 3 GiB of frames

struct ThreadStack {
    int32_t tid = 0;
    std::string name;
    dwunw_status status = DWUNW_OK; // why the walk ended
    std::vector<dwunw_frame> frames;
};

// The threads of a stopped process, each with at most `max_frames` frames; 0: as many as there are, up to kMaxFrames.
// dwunw_process_refresh's errors. A thread without registers has no frames, and its status says why.
dwunw_status take_stopped(dwunw_context *context, dwunw_process *process, dwunw_stopped *stopped, uint64_t max_frames,
                          std::vector<ThreadStack> &stacks);

// The same for the threads of a core, in ascending order, as a process has them.
void take_core(dwunw_context *context, dwunw_core *core, uint64_t max_frames, std::vector<ThreadStack> &stacks);

} // namespace dwunw_tool
