// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The system's clocks, in nanoseconds. Proved by tests/unit/base_clock_test.
#pragma once

#include <cstdint>
#include <ctime>

namespace dwunw {

inline uint64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

} // namespace dwunw
