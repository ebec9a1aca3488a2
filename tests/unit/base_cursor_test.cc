// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/cursor.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <limits>

namespace dwunw {
namespace {

using testing::Bytes;

TEST(Cursor, FixedSizesAreLittleEndian) {
    const Bytes bytes = Bytes().u8(0x12).u16(0x3456).u32(0x789abcde).u64(0x0123456789abcdef);
    Cursor cursor(bytes.data());
    EXPECT_EQ(cursor.u8(), 0x12u);
    EXPECT_EQ(cursor.u16(), 0x3456u);
    EXPECT_EQ(cursor.u32(), 0x789abcdeu);
    EXPECT_EQ(cursor.offset(), 7u);
    EXPECT_EQ(cursor.remaining(), 8u);
    EXPECT_EQ(cursor.u64(), 0x0123456789abcdefu);
    EXPECT_TRUE(cursor.ok());
    EXPECT_TRUE(cursor.at_end());
}

TEST(Cursor, PastTheEndFailsForGood) {
    const Bytes bytes = {1, 2, 3};
    Cursor cursor(bytes.data());
    EXPECT_EQ(cursor.u32(), 0u);
    EXPECT_FALSE(cursor.ok());
    EXPECT_TRUE(cursor.at_end());
    EXPECT_EQ(cursor.u8(), 0u); // not even what is there
    EXPECT_EQ(cursor.uleb128(), 0u);
    EXPECT_EQ(cursor.sleb128(), 0);
    EXPECT_EQ(cursor.c_string(), "");
    EXPECT_TRUE(cursor.take(0).empty());
    EXPECT_FALSE(cursor.ok());

    EXPECT_FALSE(Cursor(bytes.data(), 4).ok());
    EXPECT_TRUE(Cursor(bytes.data(), 3).ok());
}

TEST(Cursor, TakeAndSkip) {
    const Bytes bytes = {1, 2, 3, 4, 5};
    Cursor cursor(bytes.data(), 1);
    const auto taken = cursor.take(2);
    EXPECT_EQ(taken.size(), 2u);
    EXPECT_EQ(taken[0], 2);
    cursor.skip(2);
    EXPECT_TRUE(cursor.ok() && cursor.at_end());
    cursor.skip(1);
    EXPECT_FALSE(cursor.ok());
    Cursor huge(bytes.data(), 1);
    huge.skip(std::numeric_limits<uint64_t>::max()); // must not wrap
    EXPECT_FALSE(huge.ok());
}

TEST(Cursor, Uleb128IsReadOrRefusedWhole) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{128}, uint64_t{129}, uint64_t{16383},
                                 uint64_t{624485}, uint64_t{1} << 63, ~uint64_t{0}}) {
        const Bytes bytes = Bytes().uleb(value);
        Cursor cursor(bytes.data());
        EXPECT_EQ(cursor.uleb128(), value);
        EXPECT_TRUE(cursor.ok() && cursor.at_end()) << value;
        for (size_t size = 0; size < bytes.size(); ++size) {
            Cursor cut(std::span(bytes.data()).first(size));
            EXPECT_EQ(cut.uleb128(), 0u);
            EXPECT_FALSE(cut.ok()) << value << " " << size;
        }
    }
    const auto read = [](const Bytes &bytes) {
        Cursor cursor(bytes.data());
        const uint64_t value = cursor.uleb128();
        EXPECT_TRUE(cursor.ok() || (value == 0 && cursor.at_end()));
        return cursor.ok() ? value : uint64_t{0xbad};
    };
    EXPECT_EQ(read({0x82, 0x80, 0x80, 0x00}), 2u); // padded
    EXPECT_EQ(read({0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}), 2u);
    // 64 bits and one more.
    EXPECT_EQ(read({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}), ~uint64_t{0});
    EXPECT_EQ(read({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03}), 0xbadu);
    EXPECT_EQ(read({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}), 0xbadu);
    EXPECT_EQ(read({0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}), 0xbadu);
}

TEST(Cursor, Sleb128IsReadOrRefusedWhole) {
    for (const int64_t value :
         {int64_t{0}, int64_t{1}, int64_t{-1}, int64_t{63}, int64_t{64}, int64_t{-64}, int64_t{-65}, int64_t{-123456},
          int64_t{1} << 62, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
        const Bytes bytes = Bytes().sleb(value);
        Cursor cursor(bytes.data());
        EXPECT_EQ(cursor.sleb128(), value);
        EXPECT_TRUE(cursor.ok() && cursor.at_end()) << value;
        for (size_t size = 0; size < bytes.size(); ++size) {
            Cursor cut(std::span(bytes.data()).first(size));
            EXPECT_EQ(cut.sleb128(), 0);
            EXPECT_FALSE(cut.ok()) << value << " " << size;
        }
    }
    const auto read = [](const Bytes &bytes) {
        Cursor cursor(bytes.data());
        const int64_t value = cursor.sleb128();
        EXPECT_TRUE(cursor.ok() || (value == 0 && cursor.at_end()));
        return cursor.ok() ? value : int64_t{0xbad};
    };
    EXPECT_EQ(read({0xff, 0xff, 0x7f}), -1); // padded
    EXPECT_EQ(read({0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}), -2);
    EXPECT_EQ(read({0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}), 0xbad); // bit 63 without its copies
    EXPECT_EQ(read({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00}), 0xbad);
}

TEST(Cursor, CStringsEndWithANul) {
    const Bytes bytes = Bytes().text("zR").text("").u8('x');
    Cursor cursor(bytes.data());
    EXPECT_EQ(cursor.c_string(), "zR");
    EXPECT_EQ(cursor.offset(), 3u);
    EXPECT_EQ(cursor.c_string(), "");
    EXPECT_TRUE(cursor.ok());
    EXPECT_EQ(cursor.c_string(), ""); // no NUL
    EXPECT_FALSE(cursor.ok());
}

} // namespace
} // namespace dwunw
