// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/clock.h"

#include <gtest/gtest.h>

#include <chrono>

namespace dwunw {
namespace {

TEST(Clock, NowIsBetweenTwoReadingsOfTheSteadyClock) {
    const auto steady = [] {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(since).count());
    };
    const uint64_t before = steady();
    const uint64_t now = now_ns();
    EXPECT_LE(before, now);
    EXPECT_LE(now, steady());
}

TEST(Clock, TheWallClockIsPast2020) {
    constexpr uint64_t k2020 = 1'577'836'800;
    EXPECT_GT(now_ns(CLOCK_REALTIME), k2020 * 1'000'000'000);
}

} // namespace
} // namespace dwunw
