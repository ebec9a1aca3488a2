// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Mappings as intervals, against examples, and against a model that keeps each page by itself.
#include "memleak/mappings.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>

namespace dwunw_tool::memleak {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint32_t kProcess = 1, kTid = 100;

// All pieces, as "start-end:stack", in pages.
std::string text(const Mappings &mappings) {
    std::string result;
    mappings.each([&](uint32_t process, const Mapping &mapping) {
        EXPECT_EQ(process, kProcess);
        result += (result.empty() ? "" : " ") + std::to_string(mapping.start / kPage) + "-" +
                  std::to_string(mapping.end / kPage) + ":" + std::to_string(mapping.stack);
    });
    return result;
}

class MemleakMappings : public ::testing::Test {
  protected:
    void map(uint64_t page, uint64_t pages, int64_t stack, bool is_thread_stack = false) {
        mappings_.map(kProcess, page * kPage, pages * kPage, stack, 7, is_thread_stack);
    }
    void unmap(uint64_t page, uint64_t pages, uint32_t tid = kTid) {
        mappings_.unmap(kProcess, tid, page * kPage, pages * kPage);
    }
    // As the kernel half tells it: the beginning, and then the end.
    void remap(uint64_t old, uint64_t old_pages, uint64_t page, uint64_t pages, int64_t stack) {
        unmap(old, old_pages);
        mappings_.remap(kProcess, kTid, old * kPage, old_pages * kPage, page * kPage, pages * kPage, stack, 8);
    }

    Mappings mappings_;
};

TEST_F(MemleakMappings, LengthsAreRoundedUpToPages) {
    mappings_.map(kProcess, 10 * kPage, 1, 1, 7, false);
    mappings_.map(kProcess, 20 * kPage, kPage + 1, 2, 7, false);
    EXPECT_EQ(text(mappings_), "10-11:1 20-22:2");
    mappings_.unmap(kProcess, kTid, 20 * kPage, 1);
    EXPECT_EQ(text(mappings_), "10-11:1 21-22:2");
}

TEST_F(MemleakMappings, AnUnmapCutsPiecesOff) {
    map(10, 10, 1);
    unmap(13, 2);
    EXPECT_EQ(text(mappings_), "10-13:1 15-20:1");
    unmap(8, 3);
    unmap(19, 5);
    EXPECT_EQ(text(mappings_), "11-13:1 15-19:1");
    EXPECT_EQ(mappings_.count(), 2u);
    unmap(0, 100);
    EXPECT_EQ(text(mappings_), "");
}

TEST_F(MemleakMappings, AMapOverOthersReplacesThem) {
    map(10, 5, 1);
    map(15, 5, 2);
    map(13, 4, 3);
    EXPECT_EQ(text(mappings_), "10-13:1 13-17:3 17-20:2");
}

TEST_F(MemleakMappings, AFailedUnmapBringsThePiecesBack) {
    map(10, 10, 1);
    unmap(12, 2);
    mappings_.unmap_failed(kProcess, kTid);
    EXPECT_EQ(text(mappings_), "10-12:1 12-14:1 14-20:1");
    mappings_.unmap_failed(kProcess, kTid);
    EXPECT_EQ(mappings_.count(), 3u) << "once only";
}

TEST_F(MemleakMappings, EachThreadsUnmapIsItsOwn) {
    map(10, 2, 1);
    map(20, 2, 2);
    unmap(10, 2, 100);
    unmap(20, 2, 200);
    mappings_.unmap_failed(kProcess, 100);
    EXPECT_EQ(text(mappings_), "10-12:1");
    mappings_.unmap_failed(2, 200);
    EXPECT_EQ(text(mappings_), "10-12:1") << "of another process";
}

TEST_F(MemleakMappings, ARemapThatGrowsHasItsOwnStack) {
    map(10, 2, 1);
    remap(10, 2, 30, 5, 2);
    EXPECT_EQ(text(mappings_), "30-35:2");
}

TEST_F(MemleakMappings, ARemapThatShrinksOrMovesKeepsTheStacks) {
    map(10, 4, 1);
    map(14, 4, 2);
    remap(10, 8, 30, 8, 3);
    EXPECT_EQ(text(mappings_), "30-34:1 34-38:2");
    remap(30, 8, 30, 5, 4);
    EXPECT_EQ(text(mappings_), "30-34:1 34-35:2");
    mappings_.each([](uint32_t, const Mapping &mapping) { EXPECT_EQ(mapping.born, 7u); });
}

TEST_F(MemleakMappings, ARemapReplacesWhatIsAtItsTarget) {
    map(10, 2, 1);
    map(20, 6, 2);
    remap(10, 2, 22, 2, 3);
    EXPECT_EQ(text(mappings_), "20-22:2 22-24:1 24-26:2");
}

TEST_F(MemleakMappings, ARemapOfWhatWasUnknownBecomesKnown) {
    remap(10, 2, 30, 2, 1);
    EXPECT_EQ(text(mappings_), "30-32:1");
}

TEST_F(MemleakMappings, ARemapThatLeavesTheOldOneAddsAnother) {
    map(10, 2, 1);
    map(50, 2, 9);
    unmap(50, 2); // an earlier call of this thread: none of the remap's affair
    mappings_.remap(kProcess, kTid, 10 * kPage, 0, 30 * kPage, 2 * kPage, 2, 8);
    EXPECT_EQ(text(mappings_), "10-12:1 30-32:2");
}

// Found by comparison with a program's own log: the other mapping was dropped.
TEST_F(MemleakMappings, AnotherThreadMayMapTheOldAddressBeforeARemapReturns) {
    map(10, 2, 1);
    unmap(10, 2);
    map(10, 2, 2); // another thread's
    mappings_.remap(kProcess, kTid, 10 * kPage, 2 * kPage, 30 * kPage, 2 * kPage, 3, 8);
    EXPECT_EQ(text(mappings_), "10-12:2 30-32:1");
}

TEST_F(MemleakMappings, ThreadStacksStayThreadStacks) {
    map(10, 4, 1, true);
    unmap(10, 1);
    remap(11, 3, 31, 9, 2);
    mappings_.each([](uint32_t, const Mapping &mapping) { EXPECT_TRUE(mapping.is_thread_stack); });
    EXPECT_EQ(text(mappings_), "31-40:2");
}

TEST_F(MemleakMappings, ADroppedProcessHasNone) {
    map(10, 4, 1);
    mappings_.map(2, 10 * kPage, kPage, 5, 7, false);
    unmap(10, 1);
    mappings_.drop(kProcess);
    EXPECT_EQ(mappings_.count(), 1u);
    mappings_.unmap_failed(kProcess, kTid);
    EXPECT_EQ(mappings_.count(), 1u);
    mappings_.unmap(3, kTid, 0, kPage);
    mappings_.unmap_failed(3, kTid);
    EXPECT_EQ(mappings_.count(), 1u);
}

TEST_F(MemleakMappings, NoLengthOverflows) {
    mappings_.map(kProcess, UINT64_MAX - kPage, UINT64_MAX, 1, 7, false);
    mappings_.map(kProcess, kPage, UINT64_MAX, 2, 7, false);
    mappings_.each([](uint32_t, const Mapping &mapping) { EXPECT_LT(mapping.start, mapping.end); });
    map(0, 0, 3);
    unmap(5, 0);
    EXPECT_LE(mappings_.count(), 2u);
}

// Random calls, each page by itself beside them.
TEST_F(MemleakMappings, AreWhatAPageByPageModelSays) {
    constexpr uint64_t kPages = 64;
    std::mt19937 random(1);
    const auto below = [&](uint64_t limit) { return random() % limit; };
    std::map<uint64_t, int64_t> model; // page → stack
    const auto take = [&](uint64_t page, uint64_t pages) {
        std::map<uint64_t, int64_t> taken;
        for (uint64_t i = 0; i < pages; ++i)
            if (auto node = model.extract(page + i))
                taken.emplace(i, node.mapped());
        return taken;
    };
    for (int64_t stack = 1; stack < 20'000; ++stack) {
        const uint64_t page = below(kPages), pages = 1 + below(8), target = below(kPages), new_pages = 1 + below(8);
        switch (below(4)) {
        case 0:
            map(page, pages, stack);
            take(page, pages);
            for (uint64_t i = 0; i < pages; ++i)
                model[page + i] = stack;
            break;
        case 1:
            unmap(page, pages);
            if (below(3) == 0)
                mappings_.unmap_failed(kProcess, kTid);
            else
                take(page, pages);
            break;
        default: {
            if (page < target + new_pages && target < page + pages)
                continue; // the kernel refuses that
            remap(page, pages, target, new_pages, stack);
            const auto taken = take(page, pages);
            take(target, new_pages);
            for (uint64_t i = 0; i < new_pages; ++i)
                if (new_pages > pages || taken.empty())
                    model[target + i] = stack;
                else if (const auto known = taken.find(i); known != taken.end())
                    model[target + i] = known->second;
            break;
        }
        }
        std::map<uint64_t, int64_t> shown;
        mappings_.each([&](uint32_t, const Mapping &mapping) {
            for (uint64_t at = mapping.start / kPage; at < mapping.end / kPage; ++at)
                EXPECT_TRUE(shown.emplace(at, mapping.stack).second) << "two pieces overlap";
        });
        ASSERT_EQ(shown, model) << "after call " << stack;
    }
}

} // namespace
} // namespace dwunw_tool::memleak
