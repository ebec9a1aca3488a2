// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/map_history.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kAlways = UINT64_MAX;

class MapHistoryTest : public ::testing::Test {
  protected:
    void came(uint64_t time, uint64_t start, uint64_t end, const std::string &path) {
        auto mapped = std::make_shared<Mapped>();
        mapped->time = time;
        mapped->path = path;
        mapped->mapping.start = RunAddr(start);
        mapped->mapping.end = RunAddr(end);
        history_.add(mapped);
    }
    std::string at(uint64_t address, uint64_t until, uint64_t since = 0) const {
        const auto found = history_.find(RunAddr(address), since, until);
        EXPECT_LE(found.start, RunAddr(address));
        EXPECT_GT(found.end, RunAddr(address));
        return found.mapped != nullptr ? found.mapped->path : "";
    }
    MapHistory history_;
};

// A plugin that is unloaded at once, and another in its place.
TEST_F(MapHistoryTest, TheLastThatCameBeforeAMoment) {
    came(10, 100, 200, "a");
    came(20, 100, 200, "b");
    came(30, 100, 200, "a");
    EXPECT_EQ(at(150, 9), "");
    EXPECT_EQ(at(150, 10), "a");
    EXPECT_EQ(at(150, 19), "a");
    EXPECT_EQ(at(150, 20), "b");
    EXPECT_EQ(at(199, 29), "b");
    EXPECT_EQ(at(100, kAlways), "a");
    EXPECT_EQ(at(99, kAlways), "");
    EXPECT_EQ(at(200, kAlways), "");
    EXPECT_EQ(at(150, 25, 21), "") << "nothing came in this time";
}

TEST_F(MapHistoryTest, OverAPartOfAnother) {
    came(10, 100, 200, "a");
    came(20, 150, 170, "b");
    came(30, 190, 300, "c");
    EXPECT_EQ(at(149, kAlways), "a");
    EXPECT_EQ(at(150, kAlways), "b");
    EXPECT_EQ(at(169, kAlways), "b");
    EXPECT_EQ(at(169, 19), "a");
    EXPECT_EQ(at(170, kAlways), "a");
    EXPECT_EQ(at(190, kAlways), "c");
    EXPECT_EQ(at(299, kAlways), "c");
    EXPECT_EQ(at(195, 25), "a");
    came(40, 0, 1000, "d");
    for (const uint64_t address : {0, 100, 160, 250, 999})
        EXPECT_EQ(at(address, kAlways), "d");
    EXPECT_EQ(at(160, 39), "b");
    const auto found = history_.find(RunAddr(160), 0, kAlways);
    EXPECT_EQ(found.start, RunAddr(150)) << "an answer holds no further than anything that came";
    EXPECT_EQ(found.end, RunAddr(170));
}

// Processors' records are read one processor after the other.
TEST_F(MapHistoryTest, InAnyOrder) {
    came(30, 100, 200, "c");
    came(10, 100, 200, "a");
    came(20, 100, 200, "b");
    EXPECT_EQ(at(150, 15), "a");
    EXPECT_EQ(at(150, 25), "b");
    EXPECT_EQ(at(150, 35), "c");
}

TEST_F(MapHistoryTest, ALostTimeIsUnknown) {
    came(10, 100, 200, "a");
    history_.lose(15);
    EXPECT_EQ(history_.known_since(), 15u);
    EXPECT_EQ(at(150, kAlways), "");
    came(14, 100, 200, "late");
    EXPECT_EQ(at(150, kAlways), "");
    came(16, 100, 200, "b");
    EXPECT_EQ(at(150, kAlways), "b");
}

TEST_F(MapHistoryTest, ForgetsWhatWasReplacedBeforeATime) {
    came(10, 100, 200, "a");
    came(20, 100, 200, "b");
    came(10, 300, 400, "c");
    history_.forget_before(20);
    EXPECT_EQ(history_.size(), 1u);
    EXPECT_EQ(at(150, kAlways), "b");
    EXPECT_EQ(at(350, kAlways), "");
    EXPECT_EQ(history_.known_since(), 0u) << "the caller that forgets knows the rest";
}

TEST_F(MapHistoryTest, TheLastExecBeforeAMoment) {
    history_.add_exec(20);
    history_.add_exec(10);
    EXPECT_EQ(history_.executed(9), std::nullopt);
    EXPECT_EQ(history_.executed(10), 10u);
    EXPECT_EQ(history_.executed(19), 10u);
    EXPECT_EQ(history_.executed(kAlways), 20u);
    history_.forget_before(20);
    EXPECT_EQ(history_.executed(19), std::nullopt);
    EXPECT_EQ(history_.executed(20), 20u);
    history_.lose(30);
    EXPECT_EQ(history_.executed(kAlways), std::nullopt) << "there may have been another";
    history_.add_exec(25);
    EXPECT_EQ(history_.executed(kAlways), std::nullopt);
    for (uint64_t i = 0; i <= MapHistory::kMostExecs; ++i)
        history_.add_exec(100 + i);
    EXPECT_EQ(history_.executed(110), std::nullopt) << "those that are too many";
    EXPECT_EQ(history_.known_since(), 100 + MapHistory::kMostExecs / 2);
    EXPECT_EQ(history_.executed(kAlways), 100 + MapHistory::kMostExecs);
}

TEST_F(MapHistoryTest, ItsSizeIsBounded) {
    for (uint64_t i = 1; i <= 3 * MapHistory::kMost; ++i)
        came(i, i % 7 * 1000, i % 7 * 1000 + 1500, "p");
    EXPECT_LE(history_.size(), MapHistory::kMost);
    EXPECT_GT(history_.known_since(), MapHistory::kMost);
    EXPECT_EQ(at(500, kAlways), "p");
    MapHistory one;
    for (size_t i = 0; i < 2 * MapHistory::kMost; ++i) {
        auto mapped = std::make_shared<Mapped>();
        mapped->time = 5;
        mapped->mapping.end = RunAddr(10);
        one.add(mapped);
    }
    EXPECT_LE(one.size(), MapHistory::kMost) << "all of one moment";
}

} // namespace
} // namespace dwunw::bpf
