// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/lazy_section.h"

#include "support/watched_source.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace dwunw {
namespace {

using testing::WatchedSource;

constexpr size_t kOffset = 1000;
constexpr size_t kSize = 300'001; // no whole number of pieces

std::vector<uint8_t> content() {
    std::vector<uint8_t> bytes(kOffset + kSize + 500);
    std::mt19937 random(1);
    for (uint8_t &byte : bytes)
        byte = static_cast<uint8_t>(random());
    return bytes;
}

class LazySectionTest : public ::testing::Test {
  protected:
    LazySection section(size_t size = kSize) const { return {source_, FileOffset(kOffset), size, LinkAddr(0x1000)}; }
    std::span<const uint8_t> expected(size_t size = kSize) const { return std::span(bytes_).subspan(kOffset, size); }

    std::vector<uint8_t> bytes_ = content();
    std::shared_ptr<WatchedSource> source_ = std::make_shared<WatchedSource>(bytes_);
};

TEST_F(LazySectionTest, ReadsOnlyTheRequestedPieces) {
    const LazySection lazy = section();
    EXPECT_EQ(lazy.size(), kSize);
    EXPECT_EQ(lazy.address(), LinkAddr(0x1000));
    EXPECT_EQ(lazy.memory_bytes(), 0u);
    EXPECT_EQ(source_->reads, 0u);
    const auto bytes = lazy.load(5000, 10);
    ASSERT_TRUE(bytes);
    ASSERT_EQ(bytes->size(), kSize);
    EXPECT_TRUE(std::ranges::equal(bytes->subspan(5000, 10), expected().subspan(5000, 10)));
    EXPECT_EQ(source_->bytes_read, LazySection::kPiece);
    EXPECT_EQ(lazy.memory_bytes(), LazySection::kPiece);
    // The same piece again; a range that it begins.
    ASSERT_TRUE(lazy.load(LazySection::kPiece, LazySection::kPiece));
    EXPECT_EQ(source_->reads, 1u);
    ASSERT_TRUE(lazy.load(LazySection::kPiece, 3 * LazySection::kPiece));
    EXPECT_EQ(source_->reads, 2u);
    EXPECT_EQ(source_->bytes_read, 3 * LazySection::kPiece);
}

TEST_F(LazySectionTest, AnyPiecesInAnyOrder) {
    std::mt19937 random(2);
    for (const size_t size : {size_t{0}, size_t{1}, LazySection::kReadAtOnce, LazySection::kReadAtOnce + 1, kSize}) {
        const LazySection lazy = section(size);
        for (int i = 0; i < 400; ++i) {
            const size_t offset = random() % (size + 1);
            const size_t length = std::min<size_t>(random() % (random() % 8 == 0 ? 50'000 : 100), size - offset);
            const auto bytes = lazy.load(offset, length);
            ASSERT_TRUE(bytes);
            ASSERT_TRUE(std::ranges::equal(bytes->subspan(offset, length), expected(size).subspan(offset, length)));
        }
        ASSERT_TRUE(lazy.load(0, size));
        EXPECT_EQ(lazy.memory_bytes(), size);
        EXPECT_TRUE(std::ranges::equal(*lazy.load(0, 0), expected(size)));
    }
}

TEST_F(LazySectionTest, RangesBeyondTheEndEndThere) {
    const LazySection lazy = section();
    for (const auto &[offset, length] : {std::pair{kSize - 1, size_t{100}}, {kSize, SIZE_MAX}, {SIZE_MAX, SIZE_MAX}}) {
        const auto bytes = lazy.load(offset, length);
        ASSERT_TRUE(bytes);
        EXPECT_EQ(bytes->size(), kSize);
    }
    EXPECT_EQ(source_->bytes_read, kSize % LazySection::kPiece);
    EXPECT_EQ(lazy.load(kSize - 1, 1)->back(), expected().back());
}

TEST_F(LazySectionTest, APieceOfAChangedFileIsNotUsed) {
    const LazySection lazy = section();
    ASSERT_TRUE(lazy.load(0, 1));
    source_->changes_at = 2;
    auto bytes = lazy.load(10'000, 1);
    ASSERT_FALSE(bytes);
    EXPECT_EQ(bytes.error().status, DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(lazy.load(10'000, 1).error().status, DWUNW_ERR_MODULE_CHANGED); // and not taken the second time either
    EXPECT_EQ(lazy.whole().error().status, DWUNW_ERR_MODULE_CHANGED);
    EXPECT_TRUE(lazy.load(0, 1)); // what was read before is of the one file
}

TEST_F(LazySectionTest, APieceThatCannotBeReadIsAnError) {
    const LazySection lazy = section();
    source_->cut = kOffset + 10'000;
    EXPECT_TRUE(lazy.load(0, LazySection::kPiece));
    for (int i = 0; i < 2; ++i) {
        const auto bytes = lazy.load(9'000, 1);
        ASSERT_FALSE(bytes);
        EXPECT_EQ(bytes.error().status, DWUNW_ERR_IO);
    }
    EXPECT_EQ(lazy.whole().error().status, DWUNW_ERR_IO);
    EXPECT_EQ(lazy.memory_bytes(), LazySection::kPiece);
}

TEST_F(LazySectionTest, TheWholeSectionIsACopyThatIsNotKept) {
    for (const size_t size : {size_t{0}, size_t{100}, kSize}) {
        const LazySection lazy = section(size);
        const auto whole = lazy.whole();
        ASSERT_TRUE(whole);
        EXPECT_TRUE(std::ranges::equal(whole->bytes(), expected(size)));
        EXPECT_EQ(lazy.memory_bytes(), 0u);
    }
}

TEST_F(LazySectionTest, OfBytesAtHand) {
    const std::vector<uint8_t> bytes(expected().begin(), expected().end());
    const LazySection lazy = SectionBytes{bytes, LinkAddr(0x2000)};
    EXPECT_EQ(lazy.address(), LinkAddr(0x2000));
    EXPECT_EQ(lazy.memory_bytes(), kSize);
    EXPECT_TRUE(std::ranges::equal(*lazy.load(7, 1), bytes));
    EXPECT_TRUE(std::ranges::equal(lazy.whole()->bytes(), bytes));
    EXPECT_FALSE(lazy.unread());
}

TEST_F(LazySectionTest, UnreadIsTheSameFromTheStart) {
    const LazySection lazy = section();
    ASSERT_TRUE(lazy.load(0, kSize));
    const auto again = lazy.unread();
    ASSERT_TRUE(again);
    EXPECT_EQ(again->memory_bytes(), 0u);
    EXPECT_EQ(again->address(), lazy.address());
    EXPECT_TRUE(std::ranges::equal(*again->load(0, kSize), expected()));
}

TEST_F(LazySectionTest, ManyThreadsReadEachPieceOnce) {
    const LazySection lazy = section();
    std::vector<std::thread> threads;
    std::atomic<bool> good = true;
    for (unsigned seed = 0; seed < 4; ++seed)
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < 2000; ++i) {
                const size_t offset = random() % (kSize - 100);
                const auto bytes = lazy.load(offset, 100);
                if (!bytes || !std::ranges::equal(bytes->subspan(offset, 100), expected().subspan(offset, 100)))
                    good = false;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_TRUE(good);
    EXPECT_LE(source_->bytes_read, kSize);
}

} // namespace
} // namespace dwunw
