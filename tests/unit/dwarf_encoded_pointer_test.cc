// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/encoded_pointer.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

namespace dwunw::dwarf {
namespace {

using testing::Bytes;

constexpr PointerBases kBases{LinkAddr(0x10000), LinkAddr(0x20000), LinkAddr(0x30000), LinkAddr(0x40000)};

Result<uint64_t> read(uint8_t encoding, const Bytes &bytes, size_t offset = 0) {
    Cursor cursor(bytes.data(), offset);
    return read_encoded_pointer(cursor, encoding, kBases);
}

struct Format {
    uint8_t format;
    Bytes bytes; // −2, or what stands for it
    uint64_t value;
};

std::vector<Format> formats() {
    const auto minus_two = static_cast<uint64_t>(-2);
    return {
        {DW_EH_PE_absptr, Bytes().u64(minus_two), minus_two},   {DW_EH_PE_signed, Bytes().u64(minus_two), minus_two},
        {DW_EH_PE_udata8, Bytes().u64(minus_two), minus_two},   {DW_EH_PE_sdata8, Bytes().u64(minus_two), minus_two},
        {DW_EH_PE_udata4, Bytes().u32(0xfffffffe), 0xfffffffe}, {DW_EH_PE_sdata4, Bytes().u32(0xfffffffe), minus_two},
        {DW_EH_PE_udata2, Bytes().u16(0xfffe), 0xfffe},         {DW_EH_PE_sdata2, Bytes().u16(0xfffe), minus_two},
        {DW_EH_PE_uleb128, Bytes().uleb(0x12345), 0x12345},     {DW_EH_PE_sleb128, Bytes().sleb(-2), minus_two},
    };
}

TEST(EncodedPointer, EveryFormatRelativeToEachBase) {
    for (const Format &format : formats()) {
        const Bytes padded = Bytes({0xcc, 0xcc, 0xcc}).add(format.bytes);
        for (const auto &[application, base] : {std::pair<uint8_t, uint64_t>{0, 0},
                                                {DW_EH_PE_pcrel, 0x10003},
                                                {DW_EH_PE_textrel, 0x20000},
                                                {DW_EH_PE_datarel, 0x30000},
                                                {DW_EH_PE_funcrel, 0x40000}}) {
            const auto encoding = static_cast<uint8_t>(application | format.format);
            const auto value = read(encoding, padded, 3);
            ASSERT_TRUE(value) << int{encoding};
            EXPECT_EQ(*value, format.value + base) << int{encoding};
        }
        // A length has the format alone.
        Cursor cursor(padded.data(), 3);
        const auto length = read_encoded_length(cursor, DW_EH_PE_pcrel | format.format);
        ASSERT_TRUE(length);
        EXPECT_EQ(*length, format.value);
        EXPECT_TRUE(cursor.at_end());
    }
}

TEST(EncodedPointer, TruncatedPointersAreMalformed) {
    for (const Format &format : formats()) {
        for (size_t size = 0; size < format.bytes.size(); ++size) {
            Bytes cut = format.bytes;
            cut.data().resize(size);
            const auto value = read(format.format, cut);
            ASSERT_FALSE(value) << int{format.format} << " " << size;
            EXPECT_EQ(value.error().status, DWUNW_ERR_CFI_MALFORMED);
            EXPECT_EQ(value.error().value, format.format);
        }
    }
}

TEST(EncodedPointer, AlignedPointersSkipTheirPadding) {
    const Bytes bytes = Bytes({1, 2, 3, 4, 5, 6, 7, 8}).u64(0x1234);
    for (size_t offset = 1; offset <= 8; ++offset) {
        const auto value = read(DW_EH_PE_aligned, bytes, offset);
        ASSERT_TRUE(value) << offset;
        EXPECT_EQ(*value, 0x1234u);
    }
    EXPECT_FALSE(read(DW_EH_PE_aligned, bytes, 9));
    // Where the section is, not where it begins in memory, decides.
    Cursor shifted(bytes.data(), 1);
    const auto value = read_encoded_pointer(shifted, DW_EH_PE_aligned, {LinkAddr(0x10006), {}, {}, {}});
    ASSERT_TRUE(value);
    EXPECT_EQ(shifted.offset(), 10u);
    // A length that follows is as wide, and stands where it stands.
    Cursor length(bytes.data(), 8);
    EXPECT_EQ(*read_encoded_length(length, DW_EH_PE_aligned), 0x1234u);
}

TEST(EncodedPointer, PointersThatCannotBeRead) {
    const Bytes bytes = Bytes().u64(1).u64(2);
    for (const int encoding : {0xff, 0x80, 0x9b, 0x05, 0x0d, 0x0f, 0x60, 0x70}) {
        const auto value = read(static_cast<uint8_t>(encoding), bytes);
        ASSERT_FALSE(value) << encoding;
        EXPECT_EQ(value.error().status, DWUNW_ERR_CFI_MALFORMED);
        EXPECT_EQ(value.error().value, static_cast<uint64_t>(encoding));
    }
}

TEST(EncodedPointer, SkippingAPersonalityRoutine) {
    const Bytes bytes = Bytes().u32(1).u8(9);
    Cursor cursor(bytes.data());
    EXPECT_TRUE(skip_encoded_pointer(cursor, DW_EH_PE_indirect | DW_EH_PE_pcrel | DW_EH_PE_sdata4, kBases));
    EXPECT_EQ(cursor.offset(), 4u);
    EXPECT_TRUE(skip_encoded_pointer(cursor, DW_EH_PE_omit, kBases));
    EXPECT_EQ(cursor.offset(), 4u);
    EXPECT_FALSE(skip_encoded_pointer(cursor, DW_EH_PE_sdata4, kBases));
}

} // namespace
} // namespace dwunw::dwarf
