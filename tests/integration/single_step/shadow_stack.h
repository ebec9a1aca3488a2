// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A thread's call stack, computed from the instructions that it executed: a call pushes, a return pops, and the
// kernel's signal frame is one entry. It uses no call-frame information, so that it can check what comes from that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dwunw::testing {

struct TrueFrame {
    uint64_t pc = 0;
    uint64_t sp = 0;
    bool exact = false;  // `pc` is the next instruction to execute, not a return address
    bool signal = false; // the trampoline that a handler returns to
    uint64_t call = 0;   // the return address that its call pushed, also if it was overwritten later
};

class ShadowStack {
  public:
    struct Entry {
        enum class Kind : uint8_t {
            kReturn,      // of a call: `pc` is in memory at `slot`
            kInterrupted, // by a signal, whose frame is at `slot`
        } kind = Kind::kReturn;
        uint64_t pc = 0;
        uint64_t call = 0; // `pc` as it was pushed
        uint64_t slot = 0;
        uint64_t sp = 0; // once this entry is popped
        // kInterrupted: the stack that the handler was switched to; equal where it was not.
        uint64_t other_stack_start = 0, other_stack_end = 0;
    };

    void push_return(uint64_t return_address, uint64_t slot);
    // At a handler's first instruction: its return address stands at `handler_sp`, the signal frame above it.
    void push_signal(uint64_t pc, uint64_t sp, uint64_t handler_sp, uint64_t trampoline, uint64_t other_stack_start,
                     uint64_t other_stack_end);

    // A `ret` executed at SP `sp`, which led to `pc`. Empty, or what was wrong with it. A pair of `push` and `ret` that
    // serves as a jump pops nothing.
    std::string pop_return(uint64_t sp, uint64_t pc);
    // rt_sigreturn led to `pc` and `sp`.
    std::string pop_signal(uint64_t pc, uint64_t sp);
    // Drops the entries that SP has left behind: where longjmp or an exception went. Their number.
    size_t drop_below(uint64_t sp);

    // From the thread's present pc outward.
    std::vector<TrueFrame> chain(uint64_t pc, uint64_t sp) const;
    bool in_handler() const;
    // The lowest SP of any frame; `sp` is the innermost's.
    uint64_t lowest_sp(uint64_t sp) const;
    std::vector<Entry> &entries() { return entries_; } // innermost last

  private:
    std::vector<Entry> entries_;
};

} // namespace dwunw::testing
