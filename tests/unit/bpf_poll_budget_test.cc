// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/poll_budget.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kStart = 5'000'000'000;

TEST(PollBudget, SoManyRecords) {
    PollBudget portion;
    for (size_t i = 1; i < PollBudget::kRecords; ++i)
        ASSERT_FALSE(portion.add(kStart + i));
    EXPECT_FALSE(portion.full());
    EXPECT_TRUE(portion.add(kStart));
    EXPECT_TRUE(portion.full());
    EXPECT_EQ(portion.taken(), PollBudget::kRecords);
}

// Records of a process with tens of thousands of mappings kept memleak from its report, and from its end, for minutes.
TEST(PollBudget, RecordsThatTakeTime) {
    PollBudget portion;
    EXPECT_FALSE(portion.add(kStart)) << "what was waited for the first one does not count";
    EXPECT_FALSE(portion.add(kStart + PollBudget::kTime - 1));
    EXPECT_TRUE(portion.add(kStart + PollBudget::kTime));
    EXPECT_EQ(portion.taken(), 3u);
}

TEST(PollBudget, WithoutRecordsItIsNotFull) {
    const PollBudget portion;
    EXPECT_FALSE(portion.full());
    EXPECT_EQ(portion.taken(), 0u);
}

} // namespace
} // namespace dwunw::bpf
