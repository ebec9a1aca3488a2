// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "stack/take.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace dwunw_tool {
namespace {

// Room for the frames of one walk after the other. Only memory that a walk has written to is allocated.
class Room {
  public:
    dwunw_frame *get(size_t count) {
        if (count > count_) {
            frames_.reset();
            frames_ = std::make_unique_for_overwrite<dwunw_frame[]>(count);
            count_ = count;
        }
        return frames_.get();
    }

  private:
    std::unique_ptr<dwunw_frame[]> frames_;
    size_t count_ = 0;
};

// Walks one thread. Without a limit, the room grows until the stack fits.
ThreadStack walk(dwunw_context *context, dwunw_process *process, const dwunw_thread &thread, uint64_t max_frames,
                 Room &room) {
    ThreadStack stack;
    stack.tid = thread.tid;
    stack.name.assign(thread.name, strnlen(thread.name, sizeof thread.name));

    for (uint64_t limit = max_frames ? max_frames : kDefaultFrames;; limit *= 4) {
        limit = std::min(limit, kMaxFrames);
        dwunw_unwind_request request{};
        request.size = sizeof request;
        request.options = DWUNW_UNWIND_READ_PROCESS;
        request.process = process;
        request.regs = &thread.regs;
        request.frames = room.get(limit);
        request.max_frames = limit;
        size_t written = 0;
        stack.status = dwunw_capture(context, &request, &written);
        if (stack.status == DWUNW_ERR_FRAME_LIMIT && max_frames == 0 && limit != kMaxFrames)
            continue;
        stack.frames.assign(request.frames, request.frames + written);
        return stack;
    }
}

} // namespace

dwunw_status take_stopped(dwunw_context *context, dwunw_process *process, dwunw_stopped *stopped, uint64_t max_frames,
                          std::vector<ThreadStack> &stacks) {
    // The map may have changed since it was read. The process is stopped now, so read it again.
    if (const dwunw_status status = dwunw_process_refresh(process); status != DWUNW_OK)
        return status;
    Room room;
    const size_t count = dwunw_stopped_thread_count(stopped);
    for (size_t i = 0; i < count; i++) {
        dwunw_thread thread{};
        thread.size = sizeof thread;
        const dwunw_status status = dwunw_stopped_thread(stopped, i, &thread);
        if (status == DWUNW_OK)
            stacks.push_back(walk(context, process, thread, max_frames, room));
        else
            stacks.push_back({thread.tid, {}, status, {}});
    }
    return DWUNW_OK;
}

void take_core(dwunw_context *context, dwunw_core *core, uint64_t max_frames, std::vector<ThreadStack> &stacks) {
    Room room;
    const size_t count = dwunw_core_thread_count(core);
    for (size_t i = 0; i < count; i++) {
        dwunw_thread thread{};
        thread.size = sizeof thread;
        if (const dwunw_status status = dwunw_core_thread(core, i, &thread); status == DWUNW_OK)
            stacks.push_back(walk(context, dwunw_core_process(core), thread, max_frames, room));
        else
            stacks.push_back({thread.tid, {}, status, {}});
    }
    std::stable_sort(stacks.begin(), stacks.end(),
                     [](const ThreadStack &a, const ThreadStack &b) { return a.tid < b.tid; });
}

} // namespace dwunw_tool
