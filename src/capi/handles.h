// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the C ABI's opaque handles are.
#pragma once

#include "capi/guarded.h"
#include "process/module_store.h"
#include "process/process.h"
#include "unwind/walk.h"

#include <dwunw/process.h>

#include <array>
#include <atomic>

namespace dwunw::capi {

// Totals of one process; each counter is exact, but two read at once may be of different moments.
struct alignas(64) Counters {
    void add(const unwind::WalkResult &result) {
        constexpr auto kOrder = std::memory_order_relaxed;
        captures.fetch_add(1, kOrder);
        frames.fetch_add(result.written, kOrder);
        if (result.status == DWUNW_OK)
            complete.fetch_add(1, kOrder);
        if (result.frame_pointer_frames != 0)
            frame_pointer_frames.fetch_add(result.frame_pointer_frames, kOrder);
        if (result.trampoline_frames != 0)
            trampoline_frames.fetch_add(result.trampoline_frames, kOrder);
        if (result.used_interpreter)
            interpreter_walks.fetch_add(1, kOrder);
    }

    void add_to(dwunw_process_counters &out) const {
        out.captures += captures;
        out.complete += complete;
        out.frames += frames;
        out.frame_pointer_frames += frame_pointer_frames;
        out.trampoline_frames += trampoline_frames;
        out.interpreter_walks += interpreter_walks;
    }

    std::atomic<uint64_t> captures = 0;
    std::atomic<uint64_t> complete = 0;
    std::atomic<uint64_t> frames = 0;
    std::atomic<uint64_t> frame_pointer_frames = 0;
    std::atomic<uint64_t> trampoline_frames = 0;
    std::atomic<uint64_t> interpreter_walks = 0;
};

} // namespace dwunw::capi

struct dwunw_context {
    explicit dwunw_context(size_t table_budget) : modules(table_budget) {}
    dwunw::process::ModuleStore modules;
};

struct dwunw_process {
    dwunw_context *context = nullptr;
    std::unique_ptr<dwunw::process::Process> impl;
    // One for each of some processors: threads that walk at once do not write to one place.
    std::array<dwunw::capi::Counters, 8> counters;
};

struct dwunw_stopped {
    std::unique_ptr<dwunw::process::StoppedThreads> impl;
};
