// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The rows of examples/memleak_bcc_dwunw's report.
extern "C" {
#include "dwunw_rows.h"
}

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace {

using Frames = std::vector<dwunw_frame>;

const auto *const kA = reinterpret_cast<const dwunw_module *>(0x10);
const auto *const kB = reinterpret_cast<const dwunw_module *>(0x20);

dwunw_frame frame(uint64_t pc, const dwunw_module *module, uint64_t offset, uint32_t flags = 0) {
    dwunw_frame result{};
    result.pc = pc;
    result.module = module;
    result.module_offset = offset;
    result.flags = flags;
    return result;
}

class MemleakRowsTest : public ::testing::Test {
  protected:
    MemleakRowsTest() {
        rows_.arg = this;
        rows_.frames_of = [](void *arg, uint64_t id, const dwunw_frame **frames) {
            const Frames &known = static_cast<MemleakRowsTest *>(arg)->stacks_.at(id);
            *frames = known.data();
            return known.size();
        };
    }
    ~MemleakRowsTest() override { dwunw_rows__free(&rows_); }

    uint32_t add(uint64_t id, const Frames &frames) {
        stacks_[id] = frames;
        const dwunw_row_id *entry = dwunw_rows__add(&rows_, id, 7, frames.data(), frames.size());
        EXPECT_NE(entry, nullptr);
        EXPECT_EQ(entry->status, 7u);
        EXPECT_EQ(dwunw_rows__find(&rows_, id), entry);
        return entry->row;
    }

    dwunw_rows rows_{};
    std::map<uint64_t, Frames> stacks_;
};

TEST_F(MemleakRowsTest, OneChainUnderTwoIdsIsOneRow) {
    const Frames frames = {frame(0x1010, kA, 0x10), frame(0x2020, kB, 0x20), frame(0x99, nullptr, 0)};
    EXPECT_EQ(dwunw_rows__find(&rows_, 5), nullptr);
    const uint32_t row = add(5, frames);
    EXPECT_EQ(add(uint64_t{1} << 40, frames), row);
    EXPECT_EQ(rows_.count, 1u);
    EXPECT_EQ(rows_.rows[row].id, 5u);
}

TEST_F(MemleakRowsTest, AModuleThatWasLoadedTwiceIsTheSame) {
    const uint32_t row = add(1, {frame(0x1010, kA, 0x10)});
    EXPECT_EQ(add(2, {frame(0x5010, kA, 0x10)}), row);
}

TEST_F(MemleakRowsTest, AnyDifferenceMakesAnotherRow) {
    const std::vector<Frames> different = {
        {frame(0x1010, kA, 0x10), frame(0x2020, kB, 0x20)},
        {frame(0x1010, kA, 0x10)},
        {frame(0x1010, kA, 0x10), frame(0x2020, kB, 0x21)},
        {frame(0x1010, kB, 0x10), frame(0x2020, kB, 0x20)},
        {frame(0x1010, kA, 0x10, DWUNW_FRAME_FLAG_EXACT_PC), frame(0x2020, kB, 0x20)},
        {frame(0x2020, kB, 0x20), frame(0x1010, kA, 0x10)},
        {frame(0x1010, nullptr, 0x10), frame(0x2020, kB, 0x20)},
        {frame(0x1011, nullptr, 0x10), frame(0x2020, kB, 0x20)},
        {},
    };
    for (size_t i = 0; i < different.size(); ++i)
        EXPECT_EQ(add(i, different[i]), i);
}

TEST_F(MemleakRowsTest, ManyOfThem) {
    constexpr uint64_t kStacks = 20'000;
    for (int report = 0; report < 2; ++report) {
        for (uint64_t i = 0; i < kStacks; ++i)
            ASSERT_EQ(add(i, {frame(i / 2, nullptr, 0), frame(0x1010, kA, i / 2)}), i / 2);
        for (uint64_t i = 0; i < kStacks; ++i)
            ASSERT_EQ(dwunw_rows__find(&rows_, i)->row, i / 2);
        EXPECT_EQ(dwunw_rows__find(&rows_, kStacks), nullptr);
        dwunw_rows__clear(&rows_);
        EXPECT_EQ(dwunw_rows__find(&rows_, 0), nullptr) << "of another report";
    }
}

} // namespace
