// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/overhead.h"

#include <gtest/gtest.h>

namespace dwunw_tool::memleak {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr CallCost kCost{3'000, 1'000}; // ns

// Feeds seconds with so many calls, all recorded unless `shift` says otherwise. Returns the last action.
Overhead::Action feed(Overhead &overhead, uint64_t &now, CallCounts &counts, uint64_t calls, int seconds) {
    Overhead::Action action = Overhead::Action::kGoOn;
    for (int i = 0; i < seconds; ++i) {
        now += kSecond;
        counts.calls += calls;
        counts.recorded += calls >> overhead.shift();
        action = overhead.update(now, counts);
        if (action != Overhead::Action::kGoOn)
            break;
    }
    return action;
}

TEST(Overhead, TheShareFollowsFromTheCalls) {
    Overhead overhead(kCost, std::nullopt);
    uint64_t now = 0;
    CallCounts counts;
    EXPECT_EQ(feed(overhead, now, counts, 10'000, 5), Overhead::Action::kGoOn);
    EXPECT_DOUBLE_EQ(overhead.percent(), 3); // 10,000 × 3 µs
    EXPECT_DOUBLE_EQ(overhead.calls_per_second(), 10'000);
}

TEST(Overhead, LessIsRecordedUntilTheBoundHolds) {
    Overhead overhead(kCost, 2);
    uint64_t now = 0;
    CallCounts counts;
    feed(overhead, now, counts, 0, 1);
    EXPECT_EQ(feed(overhead, now, counts, 10'000, 2), Overhead::Action::kGoOn); // a short burst is no reason
    EXPECT_EQ(feed(overhead, now, counts, 10'000, 1), Overhead::Action::kRecordLess);
    EXPECT_EQ(overhead.shift(), 1u);
    EXPECT_EQ(feed(overhead, now, counts, 10'000, 20), Overhead::Action::kGoOn); // 2 %
    EXPECT_EQ(overhead.shift(), 1u);
}

TEST(Overhead, ABurstInBetweenStartsTheCountAgain) {
    Overhead overhead(kCost, 2);
    uint64_t now = 0;
    CallCounts counts;
    feed(overhead, now, counts, 0, 1);
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(feed(overhead, now, counts, 10'000, 2), Overhead::Action::kGoOn);
        EXPECT_EQ(feed(overhead, now, counts, 10, 1), Overhead::Action::kGoOn);
    }
}

TEST(Overhead, TrapsAloneBeyondTheBoundEndIt) {
    Overhead overhead(kCost, 2);
    uint64_t now = 0;
    CallCounts counts;
    feed(overhead, now, counts, 0, 1);
    EXPECT_EQ(feed(overhead, now, counts, 100'000, 3), Overhead::Action::kGiveUp); // traps: 10 %
    EXPECT_NE(overhead.why().find("allows 20000 calls a second"), std::string::npos) << overhead.why();
}

} // namespace
} // namespace dwunw_tool::memleak
