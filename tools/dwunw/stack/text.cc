// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "frame_text.h"
#include "output.h"
#include "stack/report.h"

#include <cinttypes>

namespace dwunw_tool {

void print_text(int32_t pid, const std::vector<ThreadStack> &stacks, dwunw_symbolizer *symbolizer) {
    print("PID %" PRId32 " - process\n", pid);
    for (const ThreadStack &stack : stacks) {
        print("TID %" PRId32 ":\n", stack.tid);
        size_t number = 0;
        for (const dwunw_frame &frame : stack.frames) {
            if (output_is_lost())
                return;
            print("#%-2zu %s\n", number++, frame_text(frame, symbolizer).c_str());
        }
        if (stack.status != DWUNW_OK)
            print("TID %" PRId32 ": %s\n", stack.tid, dwunw_status_string(stack.status));
    }
}

} // namespace dwunw_tool
