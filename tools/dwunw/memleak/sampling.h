// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a recorded block stands for, and how sure the sums are.
//
// A block that was recorded with probability p stands for 1/p blocks. Sums of 1/p are unbiased (Horvitz and Thompson).
// The variance of a sum of sizes S/p is estimated by the sum of S²·(1−p)/p² over the recorded blocks.
#pragma once

#include <cstdint>

namespace dwunw_tool::memleak {

struct Sampling {
    uint64_t rate = 1;  // one allocation in so many
    uint64_t bytes = 0; // one point in so many bytes; 0: none

    bool is_on() const { return rate > 1 || bytes > 0; }
    // The probability that a block of this size is recorded.
    double probability(uint64_t size) const;
};

// Fills the table of log2(1 + i / 256), with 16 fraction bits, that the kernel half reads (bpf/sampling.bpf.h).
void fill_logarithms(volatile uint32_t *table);

} // namespace dwunw_tool::memleak
