// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The types behind the C ABI's opaque handles.
#pragma once

#include "abi/guarded.h"
#include "abi/sized_structs.h"
#include "process/module_store.h"
#include "process/process.h"
#include "unwind/walk.h"

#include <dwunw/process.h>

#include <array>
#include <atomic>

namespace dwunw::abi {

// Totals of one process. Each counter is exact, but two counters that are read together may be of different moments.
struct alignas(64) Counters {
    // `alone`: no other thread adds to these now.
    void add(const unwind::WalkResult &result, bool alone) {
        add(captures, 1, alone);
        add(frames, result.written, alone);
        add(complete, result.status == DWUNW_OK, alone);
        add(frame_pointer_frames, result.frame_pointer_frames, alone);
        add(trampoline_frames, result.trampoline_frames, alone);
        add(interpreter_walks, result.used_interpreter, alone);
        add(unmentioned_frames, result.unmentioned_frames, alone);
        add(no_code_frames, result.no_code_frames, alone);
    }

    void add_to(dwunw_process_counters &out) const {
        out.captures += captures;
        out.complete += complete;
        out.frames += frames;
        out.frame_pointer_frames += frame_pointer_frames;
        out.trampoline_frames += trampoline_frames;
        out.interpreter_walks += interpreter_walks;
        out.unmentioned_frames += unmentioned_frames;
        out.no_code_frames += no_code_frames;
    }

    std::atomic<uint64_t> captures = 0;
    std::atomic<uint64_t> complete = 0;
    std::atomic<uint64_t> frames = 0;
    std::atomic<uint64_t> frame_pointer_frames = 0;
    std::atomic<uint64_t> trampoline_frames = 0;
    std::atomic<uint64_t> interpreter_walks = 0;
    std::atomic<uint64_t> unmentioned_frames = 0;
    std::atomic<uint64_t> no_code_frames = 0;

  private:
    static void add(std::atomic<uint64_t> &counter, uint64_t more, bool alone) {
        constexpr auto kOrder = std::memory_order_relaxed;
        if (alone)
            counter.store(counter.load(kOrder) + more, kOrder);
        else if (more != 0)
            counter.fetch_add(more, kOrder);
    }
};

} // namespace dwunw::abi

struct dwunw_context {
    explicit dwunw_context(size_t table_budget) : modules(table_budget) {}
    dwunw::process::ModuleStore modules;
};

struct dwunw_process {
    dwunw_context *context = nullptr;
    std::unique_ptr<dwunw::process::Process> impl;
    // One for each seat, and one for walks without a seat.
    std::array<dwunw::abi::Counters, dwunw::process::Process::kSeats + 1> counters;
};

struct dwunw_stopped {
    std::unique_ptr<dwunw::process::StoppedThreads> impl;
};
