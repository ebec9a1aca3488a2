// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/portion.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kStart = 5'000'000'000;

TEST(Portion, SoManyRecords) {
    Portion portion;
    for (size_t i = 1; i < Portion::kRecords; ++i)
        ASSERT_FALSE(portion.add(kStart + i));
    EXPECT_FALSE(portion.full());
    EXPECT_TRUE(portion.add(kStart));
    EXPECT_TRUE(portion.full());
    EXPECT_EQ(portion.taken(), Portion::kRecords);
}

// Records of a process with tens of thousands of mappings kept memleak from its report, and from its end, for minutes.
TEST(Portion, RecordsThatTakeTime) {
    Portion portion;
    EXPECT_FALSE(portion.add(kStart)) << "what was waited for the first one does not count";
    EXPECT_FALSE(portion.add(kStart + Portion::kTime - 1));
    EXPECT_TRUE(portion.add(kStart + Portion::kTime));
    EXPECT_EQ(portion.taken(), 3u);
}

TEST(Portion, NoRecords) {
    const Portion portion;
    EXPECT_FALSE(portion.full());
    EXPECT_EQ(portion.taken(), 0u);
}

} // namespace
} // namespace dwunw::bpf
