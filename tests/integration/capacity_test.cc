// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Files with more of everything than any known binary has: the answers stay exact, everything that cannot be held is
// counted, and memory is bounded. The test makes the files, so it knows every answer.
#include <dwunw/table.h>

#include "synthetic_process.h"

#include <random>

namespace {

using dwunw::testing::Bytes;
using dwunw::testing::ElfBuilder;
using dwunw::testing::FrameSection;
using dwunw::testing::SyntheticModule;
using enum dwunw::testing::Reg;

constexpr uint64_t kText = 0x10000;

// A run of FDEs, of rows of `row_size` bytes each; row i of all has CFA = rsp + cfa(i).
struct Shape {
    uint64_t fdes;
    uint64_t rows_per_fde;
    uint64_t row_size;
    uint64_t (*cfa)(uint64_t row);

    uint64_t rows() const { return fdes * rows_per_fde; }
};

std::vector<uint8_t> build(const Shape &shape) {
    FrameSection frames;
    const size_t cie = frames.cie();
    for (uint64_t fde = 0; fde < shape.fdes; ++fde) {
        Bytes instructions;
        for (uint64_t i = 0; i < shape.rows_per_fde; ++i) {
            if (i > 0)
                instructions.advance(shape.row_size);
            instructions.def_cfa_offset(shape.cfa(fde * shape.rows_per_fde + i));
        }
        const uint64_t size = shape.rows_per_fde * shape.row_size;
        frames.fde(cie, kText + fde * size, size, instructions);
    }
    frames.end();
    ElfBuilder elf;
    elf.add({".eh_frame", std::move(frames.data()), 0x40000000, SHF_ALLOC});
    elf.add_segment(PT_LOAD, PF_R, ".eh_frame");
    return elf.build();
}

class Capacity : public dwunw::testing::SyntheticProcess {
  protected:
    ~Capacity() override { dwunw_table_close(table_); }

    void open(const Shape &shape) {
        ASSERT_EQ(dwunw_table_open(context_, write("large", build(shape)).c_str(), &table_), DWUNW_OK);
        summary_.size = sizeof(summary_);
        ASSERT_EQ(dwunw_table_get_summary(table_, &summary_), DWUNW_OK);
        EXPECT_EQ(summary_.fdes, shape.fdes);
        EXPECT_EQ(summary_.refused, 0u);
        EXPECT_EQ(summary_.tombstones, 0u);
        EXPECT_EQ(summary_.rows, shape.rows());
    }
    // Row i, looked up at a byte of it.
    void expect_row(const Shape &shape, uint64_t i, uint64_t byte) {
        const uint64_t start = kText + i * shape.row_size;
        dwunw_row row{};
        row.size = sizeof(row);
        ASSERT_EQ(dwunw_table_lookup(table_, start + byte % shape.row_size, &row), DWUNW_OK) << i;
        EXPECT_EQ(row.start, start) << i;
        EXPECT_EQ(row.end, start + shape.row_size) << i;
        EXPECT_EQ(row.cfa.kind, uint32_t{DWUNW_RULE_REGISTER}) << i;
        EXPECT_EQ(row.cfa.reg, uint32_t{RSP}) << i;
        EXPECT_EQ(row.cfa.offset, static_cast<int64_t>(shape.cfa(i))) << i;
        EXPECT_EQ(row.ra.kind, uint32_t{DWUNW_RULE_OFFSET}) << i;
        EXPECT_EQ(row.ra.offset, -8) << i;
    }
    void expect_a_sample(const Shape &shape, int count) {
        std::mt19937_64 random(1);
        for (int i = 0; i < count && !HasFailure(); ++i)
            expect_row(shape, random() % shape.rows(), random());
        expect_row(shape, 0, 0);
        expect_row(shape, shape.rows() - 1, shape.row_size - 1);
        dwunw_row row{};
        row.size = sizeof(row);
        for (const uint64_t outside : {kText - 1, kText + shape.rows() * shape.row_size})
            EXPECT_EQ(dwunw_table_lookup(table_, outside, &row), DWUNW_ERR_NOT_FOUND);
        EXPECT_EQ(dwunw_table_get_row(table_, shape.rows(), &row), DWUNW_ERR_NOT_FOUND);
    }

    dwunw_table *table_ = nullptr;
    dwunw_table_summary summary_{};
};

TEST_F(Capacity, SeventyThousandUniqueRules) {
    const Shape shape{70'000, 1, 16, [](uint64_t row) { return 8 + row * 8; }};
    open(shape);
    EXPECT_EQ(summary_.rules, 70'000u);
    EXPECT_LE(summary_.bytes, shape.rows() * 128);
    for (uint64_t i = 0; i < shape.rows() && !HasFailure(); ++i)
        expect_row(shape, i, i);
    expect_a_sample(shape, 0);
}

// Every byte of the text has a rule that no other has.
TEST_F(Capacity, SeventyThousandUniqueRulesAsDenseAsCanBe) {
    const Shape shape{700, 100, 1, [](uint64_t row) { return 8 + row; }};
    open(shape);
    EXPECT_EQ(summary_.rules, 70'000u);
    EXPECT_LE(summary_.bytes, shape.rows() * 128);
    for (uint64_t i = 0; i < shape.rows() && !HasFailure(); ++i)
        expect_row(shape, i, 0);
    expect_a_sample(shape, 0);
}

TEST_F(Capacity, FiveMillionRows) {
    // 50 rules, as a large binary has, in 20 MB of text.
    const Shape shape{50'000, 100, 4, [](uint64_t row) { return 8 + row % 50 * 8; }};
    open(shape);
    EXPECT_EQ(summary_.rules, 50u);
    EXPECT_LE(summary_.bytes, shape.rows() * 16);
    expect_a_sample(shape, 200'000);
}

// What cannot be executed is refused, FDE by FDE; the others are there.
TEST_F(Capacity, TenThousandRefusalsAreCountedAndTyped) {
    FrameSection frames;
    const size_t cie = frames.cie();
    for (uint64_t i = 0; i < 20'000; ++i)
        frames.fde(cie, kText + i * 16, 16, i % 2 == 0 ? Bytes().def_cfa_offset(16) : Bytes({0x3f}));
    frames.end();
    ElfBuilder elf;
    elf.add({".eh_frame", std::move(frames.data()), 0x40000000, SHF_ALLOC});
    elf.add_segment(PT_LOAD, PF_R, ".eh_frame");
    ASSERT_EQ(dwunw_table_open(context_, write("refused", elf.build()).c_str(), &table_), DWUNW_OK);
    summary_.size = sizeof(summary_);
    ASSERT_EQ(dwunw_table_get_summary(table_, &summary_), DWUNW_OK);
    EXPECT_EQ(summary_.fdes, 10'000u);
    EXPECT_EQ(summary_.refused, 10'000u);
    dwunw_row row{};
    row.size = sizeof(row);
    dwunw_refusal refusal{};
    refusal.size = sizeof(refusal);
    for (uint64_t i = 0; i < 20'000 && !HasFailure(); ++i)
        EXPECT_EQ(dwunw_table_lookup(table_, kText + i * 16 + 7, &row) == DWUNW_OK, i % 2 == 0) << i;
    constexpr uint64_t kKept = 4096;
    for (uint64_t i = 0; i < kKept && !HasFailure(); ++i) {
        ASSERT_EQ(dwunw_table_get_refusal(table_, i, &refusal), DWUNW_OK);
        EXPECT_EQ(refusal.status, uint32_t{DWUNW_ERR_CFI_MALFORMED});
        EXPECT_EQ(refusal.start, kText + (2 * i + 1) * 16);
    }
    EXPECT_EQ(dwunw_table_get_refusal(table_, kKept, &refusal), DWUNW_ERR_NOT_FOUND) << "counted, and not kept";
}

// 30 files, each mapped a hundred times over; the stack goes through 60 mappings of them all.
TEST_F(Capacity, ThreeThousandMappings) {
    constexpr uint64_t kStart = 0x10000000, kApart = 0x10000, kFiles = 30, kMappings = 3000;
    std::vector<std::string> paths;
    for (uint64_t i = 0; i < kFiles; ++i) {
        SyntheticModule module;
        module.function(0x1000, 0x100, 16 + i * 8).call_before(0x1020);
        module.function(0x1100, 0x100, Bytes({dwunw::dwarf::DW_CFA_undefined, RIP})).call_before(0x1120);
        paths.push_back(write("module-" + std::to_string(i), module.build()));
    }
    for (uint64_t i = 0; i < kMappings; ++i)
        map_file(paths[i % kFiles], kStart + i * kApart, 0x1000, SyntheticModule::kTextOffset);

    constexpr size_t kDepth = 24;
    std::mt19937 random(7);
    std::vector<uint64_t> expected;
    for (int round = 0; round < 500; ++round) {
        // Before the first walk none is opened; after a few all are.
        uint64_t sp = kSp;
        expected.clear();
        for (size_t depth = 0; depth < kDepth; ++depth) {
            const uint64_t mapping = random() % kMappings;
            const bool last = depth + 1 == kDepth;
            expected.push_back(kStart + mapping * kApart + (last ? 0x120 : 0x20));
            if (depth > 0)
                set(sp - 8, expected.back());
            sp += 16 + mapping % kFiles * 8;
        }
        ASSERT_EQ(walk(expected[0]), DWUNW_OK) << round;
        ASSERT_EQ(pcs(), expected) << round;
    }
    dwunw_process_counters counters{};
    counters.size = sizeof(counters);
    ASSERT_EQ(dwunw_process_get_counters(process_, &counters), DWUNW_OK);
    EXPECT_EQ(counters.captures, 500u);
    EXPECT_EQ(counters.complete, 500u);
    EXPECT_EQ(counters.frames, 500u * kDepth);
    EXPECT_EQ(counters.modules_failed, 0u);
    EXPECT_EQ(counters.map_reads, 0u);
    // One module for each file, however often it is mapped.
    std::map<const dwunw_module *, int> modules;
    for (uint64_t i = 0; i < kMappings; ++i) {
        const dwunw_module *module = nullptr;
        ASSERT_EQ(dwunw_process_find_module(process_, kStart + i * kApart, &module, nullptr), DWUNW_OK);
        ++modules[module];
    }
    EXPECT_EQ(modules.size(), kFiles);
}

} // namespace
