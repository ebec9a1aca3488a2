// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/refresh_budget.h"

#include <gtest/gtest.h>

namespace dwunw::process {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kStart = 5'000'000'000'000;

// Asks for a read every `interval` for a second after the reserve is gone; returns the time spent reading.
uint64_t spent_in_a_second(uint64_t read_time, uint64_t interval) {
    RefreshBudget budget;
    uint64_t now = kStart;
    while (budget.allows(now)) {
        now += read_time;
        budget.spent(now, read_time);
    }
    uint64_t spent = 0;
    for (const uint64_t end = now + 1000 * kMillisecond; now < end; now += interval) {
        if (budget.allows(now)) {
            now += read_time;
            budget.spent(now, read_time);
            spent += read_time;
        }
    }
    return spent;
}

TEST(RefreshBudget, ReadingTakesAtMostItsShare) {
    const uint64_t share = 1000 * kMillisecond / RefreshBudget::kShare;
    for (const uint64_t read_time : {kMillisecond / 20, 3 * kMillisecond, 40 * kMillisecond})
        for (const uint64_t interval : {uint64_t{1000}, kMillisecond}) {
            const uint64_t spent = spent_in_a_second(read_time, interval);
            EXPECT_LE(spent, share + read_time) << read_time << " " << interval;
            EXPECT_GE(spent, share / 2) << read_time << " " << interval;
        }
}

TEST(RefreshBudget, AReadLongerThanTheRestIsPaidBack) {
    RefreshBudget budget;
    ASSERT_TRUE(budget.allows(kStart));
    budget.spent(kStart, RefreshBudget::kReserve + 10 * kMillisecond);
    EXPECT_FALSE(budget.allows(kStart + 1));
    EXPECT_FALSE(budget.allows(kStart + 10 * kMillisecond * RefreshBudget::kShare));
    EXPECT_TRUE(budget.allows(kStart + 11 * kMillisecond * RefreshBudget::kShare));
}

TEST(RefreshBudget, AStartUpWithManyLibrariesGetsThrough) {
    RefreshBudget budget;
    for (int i = 0; i < 40; ++i) {
        ASSERT_TRUE(budget.allows(kStart)) << i;
        budget.spent(kStart, 2 * kMillisecond);
    }
}

TEST(RefreshBudget, TheReserveIsNotExceededByWaiting) {
    RefreshBudget budget;
    ASSERT_TRUE(budget.allows(kStart));
    ASSERT_TRUE(budget.allows(UINT64_MAX / 2));
    budget.spent(UINT64_MAX / 2, RefreshBudget::kReserve);
    EXPECT_FALSE(budget.allows(UINT64_MAX / 2));
}

TEST(RefreshBudget, ASleepingMachineDoesNotBlockReadsForEver) {
    RefreshBudget budget;
    budget.spent(kStart, UINT64_MAX / 2);
    EXPECT_TRUE(budget.allows(kStart + 1000 * kMillisecond * RefreshBudget::kShare));
}

TEST(RefreshBudget, AnUnmappedPageIsRememberedForAWhile) {
    RefreshBudget budget;
    const RunAddr address(0x7f1234567890);
    EXPECT_FALSE(budget.known_unmapped(address, kStart));
    budget.remember_unmapped(address, kStart);
    EXPECT_TRUE(budget.known_unmapped(address, kStart));
    EXPECT_TRUE(budget.known_unmapped(RunAddr(0x7f1234567000), kStart + RefreshBudget::kForget - 1));
    EXPECT_FALSE(budget.known_unmapped(RunAddr(0x7f1234568000), kStart));
    EXPECT_FALSE(budget.known_unmapped(address, kStart + RefreshBudget::kForget));
    EXPECT_FALSE(budget.known_unmapped(RunAddr(UINT64_MAX), kStart));
}

} // namespace
} // namespace dwunw::process
