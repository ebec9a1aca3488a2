// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/recent_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace dwunw::process {
namespace {

constexpr uint64_t kPage = RecentPage::kSize;
constexpr uint64_t kStart = 7 * kPage;

// Three pages, of which the last ends early; each read is noted.
struct Memory {
    std::vector<uint8_t> bytes = std::vector<uint8_t>(2 * kPage + 100);
    std::vector<size_t> lengths;

    Memory() { std::iota(bytes.begin(), bytes.end(), uint8_t{1}); }

    static size_t read(void *self, uint64_t address, void *buffer, size_t length) {
        auto &memory = *static_cast<Memory *>(self);
        memory.lengths.push_back(length);
        const uint64_t offset = address - kStart;
        if (offset >= memory.bytes.size())
            return 0;
        const size_t got = std::min<size_t>(length, memory.bytes.size() - offset);
        std::memcpy(buffer, memory.bytes.data() + offset, got);
        return got;
    }
};

class RecentPageTest : public testing::Test {
  protected:
    // Reads, and compares with what is there.
    size_t read(uint64_t offset, size_t length) {
        std::vector<uint8_t> buffer(length);
        const size_t got = RecentPage::read(&page_, kStart + offset, buffer.data(), length);
        EXPECT_TRUE(std::equal(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(got),
                               memory_.bytes.begin() + static_cast<ptrdiff_t>(std::min(offset, memory_.bytes.size()))))
            << offset << " " << length;
        return got;
    }

    Memory memory_;
    RecentPage page_{Memory::read, &memory_};
};

TEST_F(RecentPageTest, APageIsReadOnce) {
    for (uint64_t offset = 0; offset < 2 * kPage; offset += 8)
        EXPECT_EQ(read(offset, 8), 8u);
    EXPECT_EQ(memory_.lengths, (std::vector<size_t>{kPage, kPage}));
}

TEST_F(RecentPageTest, AReadAcrossTwoPagesIsRight) {
    EXPECT_EQ(read(kPage - 4, 8), 8u);
    EXPECT_EQ(read(0, 2 * kPage), 2 * kPage);
    EXPECT_EQ(memory_.lengths, (std::vector<size_t>{8, 2 * kPage}));
}

TEST_F(RecentPageTest, WhereThePageEndsEarly) {
    EXPECT_EQ(read(2 * kPage + 92, 8), 8u);
    EXPECT_EQ(read(2 * kPage + 96, 8), 4u); // as the reader itself says
    EXPECT_EQ(read(2 * kPage + 200, 8), 0u);
    EXPECT_EQ(memory_.lengths, (std::vector<size_t>{kPage, 8, 8}));
}

TEST_F(RecentPageTest, AnUnmappedAddressReadsNothing) {
    EXPECT_EQ(RecentPage::read(&page_, 0, memory_.bytes.data(), 8), 0u);
    EXPECT_EQ(RecentPage::read(&page_, UINT64_MAX - 7, memory_.bytes.data(), 8), 0u);
    EXPECT_EQ(RecentPage::read(&page_, UINT64_MAX - 3, memory_.bytes.data(), 8), 0u);
    EXPECT_EQ(read(8, 8), 8u);
}

} // namespace
} // namespace dwunw::process
