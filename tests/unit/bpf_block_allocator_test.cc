// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/block_allocator.h"

#include <gtest/gtest.h>

#include <random>

namespace dwunw::bpf {
namespace {

TEST(BlockAllocator, AReturnedBlockIsTakenOnlyAfterAWait) {
    int waits = 0;
    BlockAllocator blocks(10, [&] { return ++waits, true; });
    EXPECT_EQ(blocks.take(6), 0u);
    blocks.give_back(0, 6);
    EXPECT_EQ(blocks.take(4), 6u);
    EXPECT_EQ(waits, 0);
    EXPECT_EQ(blocks.take(5), 0u);
    EXPECT_EQ(waits, 1);
    EXPECT_EQ(blocks.used(), 9u);
    EXPECT_EQ(blocks.take(2), std::nullopt);
    EXPECT_EQ(waits, 1) << "nothing rests: nothing to wait for";
}

TEST(BlockAllocator, NoBlockIsTakenIfTheWaitFails) {
    BlockAllocator blocks(4, [] { return false; });
    EXPECT_EQ(blocks.take(4), 0u);
    blocks.give_back(0, 4);
    EXPECT_EQ(blocks.take(1), std::nullopt);
}

TEST(BlockAllocator, NeighboursBecomeOne) {
    BlockAllocator blocks(9, [] { return true; });
    for (uint32_t i = 0; i < 3; ++i)
        EXPECT_EQ(blocks.take(3), i * 3);
    for (const uint32_t first : {0u, 6u, 3u})
        blocks.give_back(first, 3);
    EXPECT_EQ(blocks.take(9), 0u);
    EXPECT_EQ(blocks.take(0), std::nullopt);
}

TEST(BlockAllocator, NoTwoOverlap) {
    constexpr uint32_t kSize = 1000;
    BlockAllocator blocks(kSize, [] { return true; });
    std::mt19937 random(1);
    std::vector<std::pair<uint32_t, uint32_t>> held;
    std::vector<bool> taken(kSize);
    for (int i = 0; i < 20000; ++i) {
        if (random() % 2 == 0) {
            const auto count = static_cast<uint32_t>(1 + random() % 60);
            const auto first = blocks.take(count);
            if (!first)
                continue;
            ASSERT_LE(*first + count, kSize);
            for (uint32_t at = *first; at < *first + count; ++at) {
                ASSERT_FALSE(taken[at]);
                taken[at] = true;
            }
            held.emplace_back(*first, count);
        } else if (!held.empty()) {
            const size_t which = random() % held.size();
            const auto [first, count] = held[which];
            held[which] = held.back();
            held.pop_back();
            for (uint32_t at = first; at < first + count; ++at)
                taken[at] = false;
            blocks.give_back(first, count);
        }
    }
    for (const auto &[first, count] : held)
        blocks.give_back(first, count);
    EXPECT_EQ(blocks.take(kSize), 0u);
}

} // namespace
} // namespace dwunw::bpf
