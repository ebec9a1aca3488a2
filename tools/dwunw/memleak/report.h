// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The report as text: memleak's line shapes, then what could not be seen.
//
//     [10:41:07] Top 1 stacks with outstanding allocations:
//     3072 bytes in 3 allocations from stack
//             addr = 0x55d0c1a2b2a0 size = 1024
//             0 [<000055d0bf4a71c9>] leak+0x19 [/usr/bin/demo]
//     memleak: 3072 bytes in 3 allocations, 1 stacks; …
#pragma once

#include "frame_text.h"
#include "memleak/kernel.h"
#include "memleak/rows.h"
#include "memleak/sampling.h"

#include <array>
#include <string>
#include <vector>

namespace dwunw_tool::memleak {

// What the report does not show, and why. Names are as shown.
struct Loss {
    std::string what;
    uint64_t count;
    std::string advice; // how to avoid it; may be empty
};

// All losses so far that are not 0.
std::vector<Loss> losses(const dwunw_bpf_counters &stacks, const std::array<uint64_t, MEMLEAK_COUNTERS> &counters,
                         uint64_t unreadable_slots, uint64_t unprobed_functions);

// The text of a stack that is not known.
std::string missing_stack(int64_t stack);

class Report {
  public:
    explicit Report(dwunw_symbolizer *symbolizer) : symbolizer_(symbolizer) {}

    void header(size_t shown) const;
    // `mark`: what else is known of the row; may be empty.
    void row(const Rows &rows, const Row &row, const std::string &mark) const;

    // Blocks that were allocated and freed by functions that do not belong together (enum memleak_kind).
    void mismatch(const Rows &rows, uint64_t count, uint32_t kind, uint32_t how, int64_t allocated,
                  int64_t freed) const;

  private:
    void stack(const Rows &rows, const Row &row) const;
    void frame(size_t index, const dwunw_frame &frame) const;

    dwunw_symbolizer *symbolizer_;
};

} // namespace dwunw_tool::memleak
