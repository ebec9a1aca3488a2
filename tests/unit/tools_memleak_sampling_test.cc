// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which allocations are recorded: the kernel half's arithmetic, as user code, against the exact probabilities.
#include "memleak/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include <sys/cdefs.h> // __always_inline

#include "bpf/sampling.bpf.h"

namespace dwunw_tool::memleak {
namespace {

class MemleakSampling : public ::testing::Test {
  protected:
    MemleakSampling() : table_(MEMLEAK_LOG_SIZE) { fill_logarithms(table_.data()); }

    double log2_of(uint32_t random) const { return memleak_log2(random, table_.data()) / 65536.0; }
    bool has_point(uint32_t random, uint64_t size, uint64_t period) const {
        return memleak_has_point(random, size, period, table_.data()) != 0;
    }

    // The part of `tries` blocks that is recorded.
    double rate(uint64_t size, uint64_t period, int tries) {
        int points = 0;
        for (int i = 0; i < tries; ++i)
            points += has_point(static_cast<uint32_t>(random_()), size, period);
        return static_cast<double>(points) / tries;
    }

    std::vector<uint32_t> table_;
    std::mt19937 random_{20231129};
};

TEST_F(MemleakSampling, TheTableBeginsAtNothingAndEndsAtOne) {
    EXPECT_EQ(table_.front(), 0u);
    EXPECT_EQ(table_.back(), 65536u);
    EXPECT_EQ(table_[128], std::lround(std::log2(1.5) * 65536));
    for (size_t i = 1; i < table_.size(); ++i)
        EXPECT_GT(table_[i], table_[i - 1]);
}

TEST_F(MemleakSampling, PowersOfTwoHaveExactLogarithms) {
    for (uint32_t bits = 0; bits < 32; ++bits)
        EXPECT_EQ(memleak_log2(1u << bits, table_.data()), bits << 16);
}

// One unit of the last fraction bit for the table, and one for what the interpolation cuts off, and its own error.
TEST_F(MemleakSampling, OtherLogarithmsAreNearlyExact) {
    for (int i = 0; i < 1'000'000; ++i) {
        const auto random = static_cast<uint32_t>(random_()) | 1;
        ASSERT_NEAR(log2_of(random), std::log2(random), 4e-5) << random;
    }
    EXPECT_NEAR(log2_of(UINT32_MAX), 32, 4e-5);
    EXPECT_LE(memleak_log2(UINT32_MAX, table_.data()), 32u << 16);
}

// The share of recorded blocks, within five standard deviations.
TEST_F(MemleakSampling, TheProbabilityIsThatOfAPoissonProcess) {
    constexpr int kTries = 400'000;
    const std::vector<uint64_t> periods{1, 2, 100, 4096, 524288, 1 << 30, uint64_t(1) << 39};
    for (const uint64_t period : periods)
        for (const double part : {0.01, 0.1, 0.5, 1.0, 2.0, 4.0}) {
            const auto size = static_cast<uint64_t>(std::llround(part * static_cast<double>(period)));
            if (size < 20) // whole bytes: see below
                continue;
            const double expected = Sampling{1, period}.probability(size);
            EXPECT_NEAR(expected, 1 - std::exp(-static_cast<double>(size) / static_cast<double>(period)), 1e-12);
            const double deviation = std::sqrt(expected * (1 - expected) / kTries);
            // The distance is cut to whole bytes and its logarithm to 16 bits.
            const double rounding = 1.0 / static_cast<double>(period) + 1e-4;
            EXPECT_NEAR(rate(size, period, kTries), expected, 5 * deviation + rounding) << size << " of " << period;
        }
}

TEST_F(MemleakSampling, AHugeBlockIsAlwaysRecorded) {
    for (const uint64_t period : {uint64_t(1), uint64_t(524288), uint64_t(1) << 40})
        for (const uint32_t random : {0u, 1u, 2u, UINT32_MAX})
            EXPECT_TRUE(has_point(random, period * 23, period)); // ln 2³² = 22.2
}

TEST_F(MemleakSampling, ASmallBlockIsNotRecordedByAnUnlikelyNumber) {
    EXPECT_FALSE(has_point(1, 1000, 524288));
    EXPECT_FALSE(has_point(0, 1000, 524288)) << "0 counts as 1";
    EXPECT_TRUE(has_point(UINT32_MAX, 1000, 524288));
}

TEST(MemleakSamplingProbability, ByNumberItDoesNotDependOnTheSize) {
    const Sampling all;
    EXPECT_FALSE(all.is_on());
    EXPECT_EQ(all.probability(5), 1.0);
    const Sampling some{10, 0};
    EXPECT_TRUE(some.is_on());
    EXPECT_EQ(some.probability(1), 0.1);
    EXPECT_EQ(some.probability(1 << 20), 0.1);
}

TEST(MemleakSamplingProbability, ByBytesALargeBlockIsCertain) {
    const Sampling bytes{1, 1000};
    EXPECT_TRUE(bytes.is_on());
    EXPECT_EQ(bytes.probability(0), 0.0);
    EXPECT_NEAR(bytes.probability(1), 0.0009995, 1e-9);
    EXPECT_NEAR(bytes.probability(1000), 1 - std::exp(-1), 1e-12);
    EXPECT_EQ(bytes.probability(1'000'000), 1.0);
}

} // namespace
} // namespace dwunw_tool::memleak
