// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/history.h"

#include <gtest/gtest.h>

namespace dwunw_tool::memleak {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kLeak = 1, kCache = 2, kWave = 3;

// Ten reports, a second apart: a leak, a cache that is full after the fourth, and memory that comes and goes.
History ten_reports() {
    History history;
    for (uint64_t i = 0; i < 10; ++i)
        history.add((i + 1) * kSecond, {{kLeak, 100 * (i + 1), i + 1, 5},
                                        {kCache, std::min<uint64_t>(i + 1, 4) * 10'000, 4, 7},
                                        {kWave, uint64_t(i % 2 ? 5'000 : 1'000), 1, i}});
    return history;
}

TEST(History, ALeakGrowsInEveryReport) {
    const Trend leak = ten_reports().trend(kLeak);
    EXPECT_EQ(leak.reports, 9u);
    EXPECT_EQ(leak.grew, 9u);
    EXPECT_DOUBLE_EQ(leak.bytes_per_second, 100);
    EXPECT_TRUE(leak.oldest_stays);
    EXPECT_EQ(leak.change, 100);
    EXPECT_EQ(History::words(leak), "grew in 9 of 9 reports, 100 B/s; its oldest block, 10 s old, was never freed");
}

TEST(History, AFullCacheHasNoScore) {
    const History history = ten_reports();
    EXPECT_EQ(history.trend(kCache).grew, 3u);
    EXPECT_DOUBLE_EQ(history.trend(kCache).bytes_per_second, 0);
    EXPECT_DOUBLE_EQ(history.trend(kCache).score, 0);
    EXPECT_GT(history.trend(kLeak).score, history.trend(kCache).score);
}

TEST(History, MemoryThatComesAndGoesIsNotOld) {
    const Trend wave = ten_reports().trend(kWave);
    EXPECT_FALSE(wave.oldest_stays);
    EXPECT_EQ(wave.change, 4'000);
    EXPECT_EQ(wave.grew, 5u);
}

TEST(History, TheFirstReportHasNoTrend) {
    History history;
    history.add(kSecond, {{kLeak, 100, 1, 1}});
    EXPECT_EQ(history.trend(kLeak).reports, 0u);
    EXPECT_EQ(History::words(history.trend(kLeak)), "");
    EXPECT_DOUBLE_EQ(history.trend(kLeak).score, 0);
}

TEST(History, ARowThatComesLaterHasGrownFromNothing) {
    History history;
    history.add(kSecond, {});
    history.add(2 * kSecond, {{kLeak, 300, 1, 1}});
    EXPECT_EQ(history.trend(kLeak).reports, 1u);
    EXPECT_EQ(history.trend(kLeak).grew, 1u);
    EXPECT_EQ(history.trend(kLeak).change, 300);
}

TEST(History, ARowThatIsGoneIsForgotten) {
    History history;
    history.add(kSecond, {{kLeak, 300, 1, 1}});
    history.add(2 * kSecond, {});
    EXPECT_EQ(history.trend(kLeak).change, -300);
    history.add(3 * kSecond, {});
    EXPECT_EQ(history.trend(kLeak).reports, 0u);
}

TEST(History, ManyReportsKeepFewPoints) {
    History history;
    for (uint64_t i = 0; i < 10'000; ++i)
        history.add((i + 1) * kSecond, {{kLeak, 10 * i, 1, 1}});
    const Trend leak = history.trend(kLeak);
    EXPECT_EQ(leak.grew, 9'999u);
    EXPECT_NEAR(leak.bytes_per_second, 10, 0.01);
}

TEST(History, UnitsAreReadable) {
    EXPECT_EQ(in_units(17), "17 B");
    EXPECT_EQ(in_units(1'234), "1.2 KiB");
    EXPECT_EQ(in_units(-3 * 1024.0 * 1024), "-3.0 MiB");
}

} // namespace
} // namespace dwunw_tool::memleak
