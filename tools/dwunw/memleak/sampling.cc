// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/sampling.h"

#include "memleak/kernel_types.h"

#include <cmath>

namespace dwunw_tool::memleak {

double Sampling::probability(uint64_t size) const {
    if (bytes > 0)
        return -std::expm1(-static_cast<double>(size) / static_cast<double>(bytes));
    return 1.0 / static_cast<double>(rate);
}

void fill_logarithms(volatile uint32_t *table) {
    constexpr double kFraction = 65536, kEntries = 1u << MEMLEAK_LOG_BITS;
    for (uint32_t i = 0; i < MEMLEAK_LOG_SIZE; ++i)
        table[i] = static_cast<uint32_t>(std::lround(std::log2(1 + i / kEntries) * kFraction));
}

} // namespace dwunw_tool::memleak
