/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Which allocations are recorded.
 *
 * By number (-s N): each with probability 1/N, by a random number. The clock would do worse: a coarse clock makes
 * allocations of the same tick share their fate.
 *
 * By bytes (--sample-bytes=N): a Poisson process along the allocated bytes, one point in N bytes on average. A block of
 * S bytes is recorded if it has a point, which has the probability 1 − exp(−S/N). The distance to the next point is
 * exponential and has no memory, so each allocation may draw its own:
 *
 *     r           a random number, 1 … 2³² − 1
 *     distance    −ln(r / 2³²) · N = (32 − log2 r) · ln 2 · N bytes
 *     recorded    distance ≤ S
 *
 * log2 r is the position of r's highest bit, and for the rest a table of 257 values (memleak_logarithms, 16 fraction
 * bits) with linear interpolation: an error of less than 10⁻⁵.
 *
 * Proved by tests/unit/tools_memleak_sampling_test, which compiles this file as user code.
 */
#ifndef DWUNW_TOOL_SAMPLING_BPF_H
#define DWUNW_TOOL_SAMPLING_BPF_H

#include "memleak/kernel_types.h"

/* ln 2, with 16 fraction bits */
#define MEMLEAK_LN2 45426

/* log2(random), with 16 fraction bits. `table`: log2(1 + i / 256), likewise. */
static __always_inline __u32 memleak_log2(__u32 random, const volatile __u32 *table) {
    __u32 bits = 0, rest = random, step, low, index;

    for (step = 16; step; step /= 2) {
        if (rest >> step) {
            bits += step;
            rest >>= step;
        }
    }
    /* What follows the highest bit, as a fraction of 32 bits. */
    rest = bits ? random << (32 - bits) : 0;
    index = rest >> (32 - MEMLEAK_LOG_BITS);
    low = rest >> 8 & 0xffff;
    return (bits << 16) + table[index] + ((table[index + 1] - table[index]) * low >> 16);
}

/* Whether a block of `size` bytes has a point, with one point in `period` bytes (below 2⁴⁰) on average. */
static __always_inline int memleak_has_point(__u32 random, __u64 size, __u64 period, const volatile __u32 *table) {
    const __u64 exponent = (32u << 16) - memleak_log2(random ? random : 1, table);

    /* distance = exponent · ln 2 · period, with 32 fraction bits dropped in two steps */
    return (exponent * MEMLEAK_LN2 >> 16) * period >> 16 <= size;
}

#endif
