// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The table through the C ABI: of real files, of files made for the test, and of damaged files.
#include <dwunw/table.h>
#include <dwunw/unwind.h>

#include "process_testing.h"
#include "support/cfi_bytes.h"
#include "support/elf_builder.h"

#include <gtest/gtest.h>

#include <random>

namespace {

using dwunw::testing::Bytes;
using dwunw::testing::ElfBuilder;
using dwunw::testing::FrameSection;
using dwunw::testing::TemporaryFolder;
using enum dwunw::testing::Reg;
using namespace dwunw::dwarf;

class TableTest : public ::testing::Test {
  protected:
    TableTest() { EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK); }
    ~TableTest() override {
        dwunw_table_close(table_);
        dwunw_shutdown(context_);
    }
    dwunw_status open(const std::string &path) {
        dwunw_table_close(table_);
        table_ = nullptr;
        return dwunw_table_open(context_, path.c_str(), &table_);
    }
    dwunw_status open_bytes(const std::vector<uint8_t> &file) {
        dwunw::testing::write_file(folder_ / "file", std::string(file.begin(), file.end()));
        return open(folder_ / "file");
    }
    dwunw_table_summary summary() const {
        dwunw_table_summary result{};
        result.size = sizeof(result);
        EXPECT_EQ(dwunw_table_get_summary(table_, &result), DWUNW_OK);
        return result;
    }
    dwunw_row row(uint64_t index) const {
        dwunw_row result{};
        result.size = sizeof(result);
        EXPECT_EQ(dwunw_table_get_row(table_, index, &result), DWUNW_OK);
        return result;
    }

    TemporaryFolder folder_;
    dwunw_context *context_ = nullptr;
    dwunw_table *table_ = nullptr;
};

std::vector<uint8_t> file_with(const FrameSection &section) {
    ElfBuilder builder;
    builder.add({".eh_frame", section.data(), 0x100000}).add_segment(PT_LOAD, PF_R, ".eh_frame");
    return builder.build();
}

TEST_F(TableTest, EachKindOfRule) {
    FrameSection section;
    const size_t cie = section.cie();
    section.fde(cie, 0x1000, 0x10);
    section.fde(cie, 0x1010, 0x10, Bytes().def_cfa(RBP, 16).offset(RBP, 2));
    section.fde(cie, 0x1020, 0x10, Bytes({DW_CFA_undefined, RIP, DW_CFA_val_offset, RBP, 2}));
    section.fde(cie, 0x1030, 0x10, Bytes({DW_CFA_register, RBP, RBX, DW_CFA_val_expression, RIP, 1, DW_OP_lit0}));
    section.fde(cie, 0x1040, 0x10,
                Bytes({DW_CFA_def_cfa_expression, 1, DW_OP_lit0, DW_CFA_expression, RBP, 1, DW_OP_lit0}));
    section.fde(cie, 0x1050, 0x10, Bytes({0x3f}));
    section.fde(cie, 0, 0x10);
    ASSERT_EQ(open_bytes(file_with(section)), DWUNW_OK);
    const dwunw_table_summary all = summary();
    EXPECT_EQ(all.arch, uint32_t{DWUNW_ARCH_X86_64});
    EXPECT_EQ(all.fdes, 5u);
    EXPECT_EQ(all.refused, 1u);
    EXPECT_EQ(all.tombstones, 1u);
    EXPECT_EQ(all.rows, 5u);
    EXPECT_EQ(all.rules, 5u);
    EXPECT_GT(all.bytes, 5 * 8u);

    const auto is = [](const dwunw_rule &rule, uint32_t kind, uint32_t reg, int64_t offset) {
        return rule.kind == kind && rule.reg == reg && rule.offset == offset;
    };
    EXPECT_EQ(row(0).start, 0x1000u);
    EXPECT_EQ(row(0).end, 0x1010u);
    EXPECT_TRUE(is(row(0).cfa, DWUNW_RULE_REGISTER, RSP, 8));
    EXPECT_TRUE(is(row(0).ra, DWUNW_RULE_OFFSET, 0, -8));
    EXPECT_EQ(row(0).fp.kind, uint32_t{DWUNW_RULE_SAME});
    EXPECT_TRUE(is(row(1).cfa, DWUNW_RULE_REGISTER, RBP, 16));
    EXPECT_TRUE(is(row(1).fp, DWUNW_RULE_OFFSET, 0, -16));
    EXPECT_EQ(row(2).ra.kind, uint32_t{DWUNW_RULE_UNDEFINED});
    EXPECT_TRUE(is(row(2).fp, DWUNW_RULE_VAL_OFFSET, 0, -16));
    EXPECT_TRUE(is(row(3).fp, DWUNW_RULE_REGISTER, RBX, 0));
    EXPECT_EQ(row(3).ra.kind, uint32_t{DWUNW_RULE_VAL_EXPRESSION});
    EXPECT_EQ(row(4).cfa.kind, uint32_t{DWUNW_RULE_EXPRESSION});
    EXPECT_EQ(row(4).fp.kind, uint32_t{DWUNW_RULE_EXPRESSION});

    dwunw_row found{};
    found.size = sizeof(found);
    EXPECT_EQ(dwunw_table_get_row(table_, 5, &found), DWUNW_ERR_NOT_FOUND);
    EXPECT_EQ(dwunw_table_lookup(table_, 0x101f, &found), DWUNW_OK);
    EXPECT_EQ(found.start, 0x1010u);
    for (const uint64_t address : {uint64_t{0xfff}, uint64_t{0x1060}, ~uint64_t{0}})
        EXPECT_EQ(dwunw_table_lookup(table_, address, &found), DWUNW_ERR_NOT_FOUND) << address;

    dwunw_refusal refusal{};
    refusal.size = sizeof(refusal);
    ASSERT_EQ(dwunw_table_get_refusal(table_, 0, &refusal), DWUNW_OK);
    EXPECT_EQ(refusal.status, uint32_t{DWUNW_ERR_CFI_MALFORMED});
    EXPECT_EQ(refusal.start, 0x1050u);
    EXPECT_EQ(dwunw_table_get_refusal(table_, 1, &refusal), DWUNW_ERR_NOT_FOUND);
}

TEST_F(TableTest, RowsAndLookupsAgreeOnARealFile) {
    ASSERT_EQ(open("/lib/x86_64-linux-gnu/libc.so.6"), DWUNW_OK);
    const uint64_t count = summary().rows;
    ASSERT_GT(count, 20'000u);
    uint64_t end = 0;
    for (uint64_t i = 0; i < count; ++i) {
        const dwunw_row expected = row(i);
        ASSERT_LT(expected.start, expected.end);
        ASSERT_LE(end, expected.start);
        end = expected.end;
        for (const uint64_t address : {expected.start, expected.end - 1}) {
            dwunw_row found{};
            found.size = sizeof(found);
            ASSERT_EQ(dwunw_table_lookup(table_, address, &found), DWUNW_OK);
            ASSERT_EQ(std::memcmp(&found, &expected, sizeof(found)), 0) << std::hex << address;
        }
    }
}

TEST_F(TableTest, FilesThatCannotBeOpened) {
    EXPECT_EQ(open("/no/such/file"), DWUNW_ERR_NO_FILE);
    EXPECT_EQ(open("/"), DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(open("/dev/zero"), DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(open_bytes({'h', 'e', 'l', 'l', 'o'}), DWUNW_ERR_NOT_ELF);
    EXPECT_EQ(open_bytes(ElfBuilder().build()), DWUNW_ERR_NO_CFI);
    ElfBuilder relocatable; // every address in it is 0 until it is linked
    relocatable.header.e_type = ET_REL;
    EXPECT_EQ(open_bytes(relocatable.build()), DWUNW_ERR_INVALID_ARGUMENT);
    ElfBuilder foreign;
    foreign.header.e_machine = EM_SPARCV9;
    EXPECT_EQ(open_bytes(foreign.add({".eh_frame", {0, 0, 0, 0}}).build()), DWUNW_ERR_UNSUPPORTED_ARCH);
    EXPECT_EQ(dwunw_table_open(nullptr, "/bin/true", &table_), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_table_open(context_, "/bin/true", nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(table_, nullptr);

    ASSERT_EQ(open("/bin/true"), DWUNW_OK);
    dwunw_table_summary bad{};
    EXPECT_EQ(dwunw_table_get_summary(table_, &bad), DWUNW_ERR_STRUCT_SIZE); // without its size
    EXPECT_EQ(dwunw_table_get_summary(table_, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
}

TEST_F(TableTest, RegistersHaveTheirNames) {
    EXPECT_STREQ(dwunw_register_name(DWUNW_ARCH_X86_64, RBP), "rbp");
    EXPECT_STREQ(dwunw_register_name(DWUNW_ARCH_X86_64, RIP), "rip");
    EXPECT_EQ(dwunw_register_name(DWUNW_ARCH_X86_64, 17), nullptr);
    EXPECT_EQ(dwunw_register_name(99, 0), nullptr);
}

// A system program, cut short and damaged: there is a table or a typed error, and every row lies where rows may.
TEST_F(TableTest, DamagedFilesGiveATableOrATypedError) {
    const std::string whole = dwunw::testing::read_file("/bin/true");
    ASSERT_GT(whole.size(), 10'000u);
    size_t opened = 0;
    size_t refused = 0;
    const auto look = [&](const std::string &bytes) {
        dwunw::testing::write_file(folder_ / "file", bytes);
        if (open(folder_ / "file") != DWUNW_OK) {
            ++refused;
            ASSERT_EQ(table_, nullptr);
            return;
        }
        ++opened;
        const uint64_t count = summary().rows;
        uint64_t end = 0;
        for (uint64_t i = 0; i < count; ++i) {
            const dwunw_row found = row(i);
            ASSERT_LE(end, found.start);
            ASSERT_LT(found.start, found.end);
            end = found.end;
        }
    };
    for (size_t size = 0; size < whole.size(); size += 512)
        look(whole.substr(0, size));
    EXPECT_GT(refused, 10u);
    std::mt19937_64 random(2);
    for (int round = 0; round < 2000; ++round) {
        std::string changed = whole;
        // The headers are where it hurts most.
        const size_t reach = round % 2 == 0 ? 1024 : changed.size();
        for (uint64_t flips = 1 + random() % 6; flips > 0; --flips)
            changed[random() % reach] = static_cast<char>(random());
        look(changed);
    }
    EXPECT_GT(opened, 500u);
}

} // namespace
