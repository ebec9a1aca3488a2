// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <new>

namespace dwunw {
namespace {

TEST(Pages, AreZeroAndWritable) {
    for (const auto there : {Pages::There::kAsTouched, Pages::There::kAll}) {
        Pages pages(100'001, there);
        ASSERT_EQ(pages.bytes().size(), 100'001u);
        EXPECT_EQ(std::ranges::count(pages.bytes(), 0), 100'001);
        pages.bytes().front() = 1;
        pages.bytes().back() = 2;
        Pages moved(std::move(pages));
        EXPECT_EQ(moved.bytes().back(), 2);
        Pages assigned;
        EXPECT_TRUE(assigned.bytes().empty());
        assigned = std::move(moved);
        EXPECT_EQ(assigned.bytes().front(), 1);
    }
    EXPECT_TRUE(Pages(0).bytes().empty());
}

TEST(Pages, MoreThanThereIs) { EXPECT_THROW(Pages(std::numeric_limits<size_t>::max() / 2), std::bad_alloc); }

TEST(PagedVector, GrowsPastTheHeap) {
    PagedVector<uint32_t> numbers;
    for (uint32_t i = 0; i < 100'000; ++i)
        numbers.push_back(i);
    for (uint32_t i = 0; i < 100'000; ++i)
        ASSERT_EQ(numbers[i], i);
    PagedVector<uint32_t> copy = numbers;
    EXPECT_EQ(copy, numbers);
    PagedVector<uint32_t> moved = std::move(numbers);
    EXPECT_EQ(moved, copy);
    copy.resize(10);
    copy.shrink_to_fit(); // back to the heap
    EXPECT_EQ(copy.back(), 9u);
    EXPECT_THROW(moved.reserve(moved.max_size() + 1), std::length_error);
    EXPECT_THROW(PageAllocator<uint32_t>().allocate(std::numeric_limits<size_t>::max() / 2), std::bad_alloc);
}

} // namespace
} // namespace dwunw
