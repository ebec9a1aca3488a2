// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/stack_memory.h"

#include <gtest/gtest.h>

#include <limits>

namespace dwunw::unwind {
namespace {

constexpr std::array<uint8_t, 16> kSlice = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
constexpr RunAddr kStart(0x1000);

TEST(StackMemory, ExactlyItsSlice) {
    const StackMemory memory(kStart, kSlice);
    for (const size_t size : {1u, 2u, 4u, 8u}) {
        for (uint64_t offset = 0; offset + size <= kSlice.size(); ++offset) {
            const auto value = memory.read(kStart + offset, size);
            ASSERT_TRUE(value) << offset << " " << size;
            EXPECT_EQ(*value & 0xff, kSlice[offset]);
            EXPECT_EQ(*value >> (8 * (size - 1)), kSlice[offset + size - 1]); // nothing above its bytes
        }
        for (const RunAddr address : {kStart - 1, kStart + (kSlice.size() - size + 1), kStart + kSlice.size(),
                                      RunAddr(0), RunAddr(std::numeric_limits<uint64_t>::max())}) {
            const auto value = memory.read(address, size);
            ASSERT_FALSE(value) << std::hex << address.value << " " << size;
            EXPECT_EQ(value.error().status, DWUNW_ERR_SLICE_EXHAUSTED);
            EXPECT_EQ(value.error().value, address.value);
        }
    }
    EXPECT_FALSE(StackMemory(kStart, {}).read(kStart, 1));
}

size_t gives_nothing(void *calls, uint64_t, void *, size_t) {
    ++*static_cast<size_t *>(calls);
    return 0;
}
size_t gives_less(void *calls, uint64_t, void *buffer, size_t length) {
    ++*static_cast<size_t *>(calls);
    std::memset(buffer, 0xee, length - 1);
    return length - 1;
}
size_t gives_all(void *calls, uint64_t address, void *buffer, size_t length) {
    ++*static_cast<size_t *>(calls);
    std::memcpy(buffer, &address, length);
    return length;
}

TEST(StackMemory, ReadersInTheirOrder) {
    size_t first = 0;
    size_t second = 0;
    StackMemory memory(kStart, kSlice);
    memory.add_reader({gives_less, &first});
    memory.add_reader({gives_all, &second});
    ASSERT_TRUE(memory.read_word(kStart));
    EXPECT_EQ(first + second, 0u); // the slice has it
    const auto value = memory.read_word(kStart + 12);
    ASSERT_TRUE(value);
    EXPECT_EQ(*value, 0x100cu);
    EXPECT_EQ(first, 1u);
    EXPECT_EQ(second, 1u);
}

TEST(StackMemory, ReadersThatCannotHelp) {
    size_t calls = 0;
    StackMemory memory(kStart, kSlice);
    memory.add_reader({nullptr, nullptr}); // none at all
    EXPECT_EQ(memory.read_word(RunAddr(0)).error().status, DWUNW_ERR_SLICE_EXHAUSTED);
    memory.add_reader({gives_nothing, &calls});
    memory.add_reader({gives_less, &calls});
    EXPECT_EQ(memory.read_word(RunAddr(0)).error().status, DWUNW_ERR_MEMORY_UNREADABLE);
    EXPECT_EQ(calls, 2u);
}

// A reader that holds more pieces of the slice, say: what ends is the slice.
TEST(StackMemory, BehindTheSliceItIsTheSliceThatEnds) {
    size_t calls = 0;
    StackMemory memory(kStart, kSlice);
    memory.add_reader({gives_nothing, &calls});
    const auto status = [&](RunAddr address) { return memory.read_word(address).error().status; };
    for (const uint64_t offset : {uint64_t{9}, uint64_t{16}, uint64_t{0x10000}})
        EXPECT_EQ(status(kStart + offset), DWUNW_ERR_SLICE_EXHAUSTED) << offset;
    EXPECT_EQ(status(kStart - 8), DWUNW_ERR_MEMORY_UNREADABLE);
    EXPECT_EQ(status(kStart + (uint64_t{1} << 20) + 16), DWUNW_ERR_MEMORY_UNREADABLE);
    EXPECT_EQ(calls, 5u);
    StackMemory none(kStart, {});
    none.add_reader({gives_nothing, &calls});
    EXPECT_EQ(none.read_word(kStart).error().status, DWUNW_ERR_MEMORY_UNREADABLE);
}

} // namespace
} // namespace dwunw::unwind
