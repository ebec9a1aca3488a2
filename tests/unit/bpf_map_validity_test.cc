// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/map_validity.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

constexpr uint64_t kPages = 10;

PublishedMap reading(uint64_t before, uint64_t after, const PublishedMap *last = nullptr, bool keeps = true) {
    PublishedMap made;
    made.changes = before;
    made.changes_after = after;
    made.exec_pages = kPages;
    made.follow(last, keeps);
    return made;
}

TEST(PublishedMap, AMomentOfTheSameCountAndPages) {
    const PublishedMap map = reading(8, 8);
    EXPECT_TRUE(map.is_of(8, kPages, false));
    EXPECT_FALSE(map.is_of(8, kPages + 1, false));
    EXPECT_TRUE(map.is_of(8, kPages + 1, true));
    EXPECT_FALSE(map.is_of(7, kPages, false));
    EXPECT_FALSE(map.is_of(9, kPages, true));
}

TEST(PublishedMap, AMomentBetweenTwoReadings) {
    const PublishedMap first = reading(8, 8);
    const PublishedMap second = reading(10, 10, &first);
    EXPECT_TRUE(second.is_of(8, kPages, false));
    EXPECT_TRUE(second.is_of(9, kPages + 1, false));
    EXPECT_FALSE(second.is_of(7, kPages, false));
    EXPECT_FALSE(reading(10, 10, &first, false).is_of(9, kPages, false)) << "a module has gone";
    EXPECT_FALSE(reading(12, 12, &first).is_of(9, kPages, false)) << "one may have come, gone, and another come";
}

// dlclose and dlopen of another file in its place, while the map was being read: the count was that of before, the map
// that of after, and a stack of before was walked by the new file's rules.
TEST(PublishedMap, AMapThatChangedWhileItWasRead) {
    const PublishedMap map = reading(8, 12);
    EXPECT_FALSE(map.is_of(8, kPages, false));
    EXPECT_FALSE(map.is_of(8, kPages, true));
    EXPECT_FALSE(map.is_of(12, kPages, false)) << "it may have been read before the last change";
    // Nor does it hide fewer changes from the next one, or from the one before.
    const PublishedMap first = reading(6, 6);
    const PublishedMap second = reading(7, 10, &first);
    EXPECT_FALSE(second.is_of(6, kPages, false)) << "four changes, though three while it was read";
    const PublishedMap third = reading(11, 11, &second);
    EXPECT_FALSE(third.is_of(9, kPages, false));
    const PublishedMap fourth = reading(13, 13, &third);
    EXPECT_TRUE(fourth.is_of(11, kPages, false));
    EXPECT_TRUE(fourth.is_of(12, kPages, false));
}

TEST(PublishedMap, AMapThatChangedALittleWhileItWasRead) {
    const PublishedMap first = reading(8, 8);
    const PublishedMap second = reading(9, 10, &first);
    EXPECT_TRUE(second.is_of(8, kPages, false));
    EXPECT_TRUE(second.is_of(9, kPages, false));
    EXPECT_FALSE(second.is_of(10, kPages, false));
}

// A static program executes another one and is executed again: no dynamic linker sends a notification in between.
TEST(PublishedMap, AnotherProgramInBetween) {
    const PublishedMap first = reading(8, 8);
    const uint64_t back_again = 8 + 2 * DWUNW_BPF_HIDING_CHANGES;
    EXPECT_FALSE(reading(back_again, back_again, &first).is_of(8 + DWUNW_BPF_HIDING_CHANGES, kPages, false));
}

} // namespace
} // namespace dwunw::bpf
