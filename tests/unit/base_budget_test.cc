// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/budget.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace dwunw {
namespace {

TEST(Budget, SharesComeBack) {
    Budget budget(100);
    {
        auto first = budget.take(60);
        ASSERT_TRUE(first);
        EXPECT_EQ(first->bytes(), 60u);
        EXPECT_FALSE(budget.take(41));
        const auto second = budget.take(40);
        EXPECT_TRUE(second);
        EXPECT_EQ(budget.left(), 0u);
        const Budget::Share moved = std::move(*first);
        EXPECT_EQ(moved.bytes(), 60u);
        first.reset();
        EXPECT_EQ(budget.left(), 0u);
    }
    EXPECT_EQ(budget.left(), 100u);
    EXPECT_TRUE(budget.take(0));
    EXPECT_FALSE(budget.take(~uint64_t{0}));
}

TEST(Budget, AShareThatIsReplacedOrOutlivesIt) {
    Budget::Share kept;
    {
        Budget budget(10);
        kept = *budget.take(4);
        kept = *budget.take(6);
        EXPECT_EQ(budget.left(), 4u);
    }
    EXPECT_EQ(kept.bytes(), 6u);
}

TEST(Budget, ManyThreadsNeverHoldMore) {
    Budget budget(3);
    std::atomic<int> held = 0;
    std::atomic<int> most = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int round = 0; round < 1000; ++round)
                if (const auto share = budget.take(1)) {
                    const int now = ++held;
                    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
                    }
                    --held;
                }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_LE(most, 3);
    EXPECT_EQ(budget.left(), 3u);
}

} // namespace
} // namespace dwunw
