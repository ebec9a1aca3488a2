// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/number_index.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

uint64_t spread(uint64_t value) { return value * 0x9e3779b97f4a7c15u; }

TEST(NumberIndex, FindsEveryInsertedNumber) {
    NumberIndex index;
    EXPECT_EQ(index.find(1, [](uint32_t) { return true; }), NumberIndex::kNone);
    constexpr uint32_t kCount = 10000;
    for (uint32_t i = 0; i < kCount; ++i)
        index.insert(spread(i), i);
    for (uint32_t i = 0; i < kCount; ++i)
        ASSERT_EQ(index.find(spread(i), [&](uint32_t number) { return number == i; }), i);
    EXPECT_EQ(index.find(spread(kCount), [](uint32_t) { return true; }), NumberIndex::kNone);
    EXPECT_LE(index.bytes(), kCount * 24);
    index.clear();
    EXPECT_EQ(index.bytes(), 0u);
    EXPECT_EQ(index.find(spread(1), [](uint32_t) { return true; }), NumberIndex::kNone);
}

// The caller decides what is equal; a hash alone never does.
TEST(NumberIndex, ManyOfOneHash) {
    NumberIndex index;
    for (uint32_t i = 0; i < 200; ++i)
        index.insert(0, i);
    for (uint32_t i = 0; i < 200; ++i)
        ASSERT_EQ(index.find(0, [&](uint32_t number) { return number == i; }), i);
    EXPECT_EQ(index.find(0, [](uint32_t) { return false; }), NumberIndex::kNone);
}

} // namespace
} // namespace dwunw::bpf
