// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The clock that bpf_ktime_get_ns reads.
#pragma once

#include <cstdint>
#include <ctime>

namespace dwunw_tool {

constexpr uint64_t kSecond = 1'000'000'000; // in ns

// CLOCK_MONOTONIC, in ns.
inline uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return uint64_t(now.tv_sec) * kSecond + uint64_t(now.tv_nsec);
}

} // namespace dwunw_tool
