// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests every instruction by the rows that it makes, and malformed programs.
#include "dwarf/cfi_program.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace dwunw::dwarf {
namespace {

using testing::breg;
using testing::Bytes;
using testing::cfa_restore;
using testing::FrameSection;
using enum testing::Reg;

constexpr uint64_t kStart = 0x1000;
constexpr uint64_t kLength = 0x100000;

struct SeenRow {
    LinkAddr start;
    LinkAddr end;
    RowState state;
};

class Rows final : public RowVisitor {
  public:
    bool row(LinkAddr start, LinkAddr end, const RowState &state) override {
        seen.push_back({start, end, state});
        return seen.size() < limit;
    }
    std::vector<SeenRow> seen;
    size_t limit = std::numeric_limits<size_t>::max();
};

struct Outcome {
    Status status;
    std::vector<SeenRow> rows;

    const RowState &last() const { return rows.back().state; }
    const RegisterRule &rule(uint8_t reg) const { return last().registers[reg]; }
};

// The program run for a table's columns says of every address what the full one says.
void expect_table_program_agrees(const Fde &fde, const Status &status, const std::vector<SeenRow> &rows) {
    constexpr TableColumns kColumns{RSP, RBP, RIP};
    struct TableRows final : TableProgram::Visitor {
        bool row(LinkAddr start, const TableState &state) override {
            seen.emplace_back(start, state);
            return true;
        }
        std::vector<std::pair<LinkAddr, TableState>> seen;
    } found;
    TableProgram program(kColumns);
    const auto initial = program.initial_state(fde.cie);
    const Status table_status = initial ? program.run(fde, *initial, found) : Status(initial.error());
    ASSERT_EQ(table_status.status(), status.status());
    size_t at = 0;
    for (const SeenRow &row : rows) {
        while (at + 1 < found.seen.size() && found.seen[at + 1].first <= row.start)
            ++at;
        ASSERT_LT(at, found.seen.size());
        ASSERT_LE(found.seen[at].first, row.start);
        ASSERT_EQ(found.seen[at].second, table_state(row.state, kColumns)) << std::hex << row.start.value;
        ASSERT_TRUE(at + 1 == found.seen.size() || found.seen[at + 1].first >= row.end);
    }
}

Outcome run(const Bytes &instructions, const Bytes &initial = testing::usual_cie_instructions(),
            uint8_t encoding = DW_EH_PE_absptr) {
    FrameSection bytes;
    const size_t offset = bytes.fde(bytes.cie(initial, "zR", encoding), kStart, kLength, instructions);
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(0x200000), LinkAddr(), LinkAddr());
    const auto fde = section.fde_at(offset);
    EXPECT_TRUE(fde);
    Rows rows;
    const Status status = run_cfi_program(*fde, rows);
    expect_table_program_agrees(*fde, status, rows.seen);
    return {status, rows.seen};
}

RegisterRule saved(int64_t offset) { return {RuleKind::kOffset, 0, 0, offset}; }

TEST(CfiProgram, TheCiesRowAlone) {
    const Outcome result = run({});
    ASSERT_TRUE(result.status);
    ASSERT_EQ(result.rows.size(), 1u);
    EXPECT_EQ(result.rows[0].start, LinkAddr(kStart));
    EXPECT_EQ(result.rows[0].end, LinkAddr(kStart + kLength));
    EXPECT_EQ(result.last().cfa, (CfaRule{CfaRule::Kind::kRegister, RSP, 0, 8}));
    EXPECT_EQ(result.rule(RIP), saved(-8));
    EXPECT_EQ(result.rule(RBX).kind, RuleKind::kUnspecified);
}

TEST(CfiProgram, LocationsAdvanceByEachOpcode) {
    const std::vector<std::pair<Bytes, uint64_t>> steps = {
        {Bytes(), 0},
        {Bytes().advance(1), 1},
        {Bytes().u8(DW_CFA_advance_loc1).u8(0xff), 0x100},
        {Bytes().u8(DW_CFA_advance_loc2).u16(0x1234), 0x1334},
        {Bytes().u8(DW_CFA_advance_loc4).u32(0x10000), 0x11334},
        {Bytes().u8(DW_CFA_MIPS_advance_loc8).u64(0x100), 0x11434},
        {Bytes().u8(DW_CFA_set_loc).u64(kStart + 0x20000), 0x20000},
    };
    Bytes instructions;
    for (size_t i = 0; i < steps.size(); ++i)
        instructions.add(steps[i].first).def_cfa_offset(8 + 8 * i);
    const Outcome result = run(instructions);
    ASSERT_TRUE(result.status);
    ASSERT_EQ(result.rows.size(), steps.size());
    for (size_t i = 0; i < steps.size(); ++i) {
        EXPECT_EQ(result.rows[i].start, LinkAddr(kStart + steps[i].second));
        EXPECT_EQ(result.rows[i].end, LinkAddr(kStart + (i + 1 < steps.size() ? steps[i + 1].second : kLength)));
        EXPECT_EQ(result.rows[i].state.cfa.value, static_cast<int64_t>(8 + 8 * i));
    }
}

TEST(CfiProgram, DeltasAndOffsetsAreFactored) {
    Bytes instructions = Bytes().def_cfa(RSP, 8).offset(RBX, 3).advance(2).u8(DW_CFA_advance_loc2).u16(0x100);
    Fde fde;
    fde.start = LinkAddr(kStart);
    fde.end = LinkAddr(kStart + 0x1000);
    fde.cie.code_alignment = 4;
    fde.cie.data_alignment = -16;
    const auto rows_of = [&] {
        fde.instructions = instructions.data();
        Rows rows;
        return Outcome{run_cfi_program(fde, rows), rows.seen};
    };
    Outcome result = rows_of();
    ASSERT_TRUE(result.status);
    ASSERT_EQ(result.rows.size(), 3u);
    EXPECT_EQ(result.rows[1].start, LinkAddr(kStart + 8));
    EXPECT_EQ(result.rows[2].start, LinkAddr(kStart + 0x408));
    EXPECT_EQ(result.last().cfa.value, 8); // as it is written
    EXPECT_EQ(result.rule(RBX), saved(-48));
    fde.cie.code_alignment = ~uint64_t{0};
    result = rows_of();
    EXPECT_EQ(result.status.status(), DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(result.status.error().value, DW_CFA_advance_loc | 2);
}

TEST(CfiProgram, SetLocIsEncodedAsTheFdesPointers) {
    // Relative to the operand's own address in the section.
    FrameSection bytes;
    const size_t cie = bytes.cie(testing::usual_cie_instructions(), "zR", DW_EH_PE_pcrel | DW_EH_PE_sdata4);
    const size_t offset = bytes.data().size();
    const uint64_t section_address = 0x200000;
    const auto relative = [&](uint64_t address, size_t at) {
        return static_cast<uint32_t>(address - (section_address + at));
    };
    Bytes fde;
    fde.u32(24).u32(offset + 4 - cie).u32(relative(kStart, offset + 8)).u32(0x100).u8(0);
    fde.u8(DW_CFA_set_loc).u32(relative(kStart + 0x40, offset + 18)).def_cfa_offset(16).u8(0).u8(0).u8(0).u8(0);
    bytes.data().insert(bytes.data().end(), fde.data().begin(), fde.data().end());
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(section_address), LinkAddr(), LinkAddr());
    const auto parsed = section.fde_at(offset);
    ASSERT_TRUE(parsed);
    ASSERT_EQ(parsed->start, LinkAddr(kStart));
    Rows rows;
    ASSERT_TRUE(run_cfi_program(*parsed, rows));
    ASSERT_EQ(rows.seen.size(), 2u);
    EXPECT_EQ(rows.seen[1].start, LinkAddr(kStart + 0x40));
}

TEST(CfiProgram, CfaRulesAreThoseOfTheStandard) {
    const auto cfa = [](const Bytes &instructions) { return run(instructions).last().cfa; };
    const auto of = [](uint8_t reg, int64_t offset) { return CfaRule{CfaRule::Kind::kRegister, reg, 0, offset}; };
    EXPECT_EQ(cfa(Bytes().def_cfa(RBP, 16)), of(RBP, 16));
    EXPECT_EQ(cfa(Bytes({DW_CFA_def_cfa_sf, RBP, 2})), of(RBP, -16));
    EXPECT_EQ(cfa(Bytes({DW_CFA_def_cfa_register, RBP})), of(RBP, 8));
    EXPECT_EQ(cfa(Bytes().def_cfa_offset(1000)), of(RSP, 1000));
    EXPECT_EQ(cfa(Bytes({DW_CFA_def_cfa_offset_sf, 0x7e})), of(RSP, 16)); // −2 × −8
    const CfaRule expression = cfa({DW_CFA_def_cfa_expression, 2, breg(RSP), 8});
    EXPECT_EQ(expression.kind, CfaRule::Kind::kExpression);
    EXPECT_EQ(expression.expression_length, 2u);
}

TEST(CfiProgram, RegisterRulesAreThoseOfTheStandard) {
    const auto rule = [](const Bytes &instructions) { return run(instructions).rule(RBX); };
    EXPECT_EQ(rule(Bytes().offset(RBX, 2)), saved(-16));
    EXPECT_EQ(rule({DW_CFA_offset_extended, RBX, 2}), saved(-16));
    EXPECT_EQ(rule({DW_CFA_offset_extended_sf, RBX, 0x7f}), saved(8));
    EXPECT_EQ(rule({DW_CFA_GNU_negative_offset_extended, RBX, 2}), saved(16));
    EXPECT_EQ(rule({DW_CFA_val_offset, RBX, 2}), (RegisterRule{RuleKind::kValOffset, 0, 0, -16}));
    EXPECT_EQ(rule({DW_CFA_val_offset_sf, RBX, 0x7f}), (RegisterRule{RuleKind::kValOffset, 0, 0, 8}));
    EXPECT_EQ(rule({DW_CFA_undefined, RBX}).kind, RuleKind::kUndefined);
    EXPECT_EQ(rule({DW_CFA_same_value, RBX}).kind, RuleKind::kSameValue);
    EXPECT_EQ(rule({DW_CFA_register, RBX, R12}), (RegisterRule{RuleKind::kRegister, R12, 0, 0}));
    for (const int nobody_looks_there : {17, 40})
        EXPECT_EQ(rule({DW_CFA_register, RBX, nobody_looks_there}).kind, RuleKind::kUndefined);
    EXPECT_EQ(rule({DW_CFA_expression, RBX, 2, breg(RSP), 8}).kind, RuleKind::kExpression);
    EXPECT_EQ(rule({DW_CFA_val_expression, RBX, 2, breg(RSP), 8}).kind, RuleKind::kValExpression);
    EXPECT_EQ(rule({DW_CFA_GNU_args_size, 32}).kind, RuleKind::kUnspecified);
    // Registers that are not tracked are passed over.
    EXPECT_TRUE(run(Bytes({DW_CFA_offset_extended, 100, 2, DW_CFA_undefined, 60}).offset(63, 1)).status);
    EXPECT_TRUE(run(Bytes().offset(kTrackedRegisters, 1).u8(DW_CFA_restore | kTrackedRegisters)).status);
}

TEST(CfiProgram, ExpressionsAreFoundAgain) {
    FrameSection bytes;
    const Bytes expression = {breg(RSP), 8, DW_OP_deref};
    const size_t offset =
        bytes.fde(bytes.cie(), kStart, kLength, Bytes({DW_CFA_val_expression, RBX}).block(expression));
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(), LinkAddr(), LinkAddr());
    const auto state = row_at(*section.fde_at(offset), LinkAddr(kStart));
    ASSERT_TRUE(state);
    const RegisterRule &rule = state->registers[RBX];
    const auto found = expression_bytes(bytes.data(), rule.value, rule.expression_length);
    EXPECT_EQ(std::vector<uint8_t>(found.begin(), found.end()), expression.data());
    EXPECT_TRUE(expression_bytes(bytes.data(), static_cast<int64_t>(bytes.data().size()), 1).empty());
    EXPECT_TRUE(expression_bytes(bytes.data(), -1, 1).empty());
}

TEST(CfiProgram, RestoreGoesBackToTheCie) {
    const Bytes initial = testing::usual_cie_instructions().offset(RBX, 3);
    EXPECT_EQ(run(Bytes().offset(RBX, 9).u8(cfa_restore(RBX)), initial).rule(RBX), saved(-24));
    EXPECT_EQ(run(Bytes().offset(RBX, 9).u8(DW_CFA_restore_extended).uleb(RBX), initial).rule(RBX), saved(-24));
    EXPECT_EQ(run(Bytes().offset(R12, 9).u8(cfa_restore(R12)), initial).rule(R12).kind, RuleKind::kUnspecified);
}

TEST(CfiProgram, RememberAndRestoreState) {
    // The CFA is part of what is remembered.
    Bytes instructions = Bytes().def_cfa_offset(16).offset(RBX, 2).u8(DW_CFA_remember_state);
    instructions.def_cfa(RBP, 99).u8(DW_CFA_remember_state).offset(RBX, 7).u8(DW_CFA_restore_state);
    const Outcome result = run(instructions.advance(1).u8(DW_CFA_restore_state));
    ASSERT_TRUE(result.status);
    ASSERT_EQ(result.rows.size(), 2u);
    EXPECT_EQ(result.rows[0].state.cfa.value, 99);
    EXPECT_EQ(result.rows[0].state.registers[RBX], saved(-16));
    EXPECT_EQ(result.last().cfa, (CfaRule{CfaRule::Kind::kRegister, RSP, 0, 16}));

    Bytes deep;
    for (size_t i = 0; i < kMaxRememberedStates; ++i)
        deep.u8(DW_CFA_remember_state);
    EXPECT_TRUE(run(deep).status);
    EXPECT_FALSE(run(deep.u8(DW_CFA_remember_state)).status);
}

TEST(CfiProgram, RefusedWithTheOpcode) {
    const Bytes expression_cfa = {DW_CFA_def_cfa_expression, 1, DW_OP_lit0};
    const std::vector<std::pair<Bytes, uint8_t>> cases = {
        {{0x3f}, 0x3f},
        {{0x2d, 0}, 0x2d}, // GNU_window_save: SPARC's, AArch64's
        {{DW_CFA_restore_state}, DW_CFA_restore_state},
        {Bytes().def_cfa(40, 8), DW_CFA_def_cfa},
        {Bytes().def_cfa(RSP, uint64_t{1} << 63), DW_CFA_def_cfa},
        {Bytes().u8(DW_CFA_def_cfa_offset).uleb(~uint64_t{0}), DW_CFA_def_cfa_offset},
        {Bytes(expression_cfa).def_cfa_offset(8), DW_CFA_def_cfa_offset},
        {Bytes(expression_cfa).add({DW_CFA_def_cfa_offset_sf, 1}), DW_CFA_def_cfa_offset_sf},
        {Bytes().advance(8).u8(DW_CFA_set_loc).u64(kStart + 4), DW_CFA_set_loc},            // backwards
        {Bytes().u8(DW_CFA_MIPS_advance_loc8).u64(~uint64_t{0}), DW_CFA_MIPS_advance_loc8}, // wraps
        {Bytes().u8(DW_CFA_offset_extended).uleb(RBX).uleb(uint64_t{1} << 62), DW_CFA_offset_extended},
        {Bytes().u8(DW_CFA_val_offset_sf).uleb(RBX).sleb(std::numeric_limits<int64_t>::min()), DW_CFA_val_offset_sf},
        {Bytes().offset(RBX, uint64_t{1} << 62), testing::cfa_offset(RBX)},
        {Bytes().u8(DW_CFA_offset_extended_sf).uleb(RBX).sleb(int64_t{1} << 62), DW_CFA_offset_extended_sf},
        {Bytes().u8(DW_CFA_val_offset).uleb(RBX).uleb(uint64_t{1} << 62), DW_CFA_val_offset},
        {Bytes().u8(DW_CFA_GNU_negative_offset_extended).uleb(RBX).uleb(uint64_t{1} << 62),
         DW_CFA_GNU_negative_offset_extended},
        {Bytes().u8(DW_CFA_GNU_negative_offset_extended).uleb(RBX).uleb(uint64_t{1} << 60), // −(−2⁶³)
         DW_CFA_GNU_negative_offset_extended},
        {Bytes().def_cfa(kTrackedRegisters, 8), DW_CFA_def_cfa},
        {{DW_CFA_def_cfa_register, kTrackedRegisters}, DW_CFA_def_cfa_register},
        {{DW_CFA_expression, RBX, 100, 0}, DW_CFA_expression}, // longer than the program
    };
    for (const auto &[instructions, opcode] : cases) {
        const Outcome result = run(instructions);
        ASSERT_FALSE(result.status) << int{opcode};
        EXPECT_EQ(result.status.status(), DWUNW_ERR_CFI_MALFORMED);
        EXPECT_EQ(result.status.error().value, opcode);
    }
    // What only an FDE may do.
    for (const Bytes &initial : {Bytes().advance(1), Bytes().u8(cfa_restore(RBX))})
        EXPECT_FALSE(run({}, initial).status);
}

// libgcrypt 1.10.1 at its AVX2 functions' ends: CFA = *(rsp + 536) + 56 by an expression, rsp back from
// there, and DW_CFA_def_cfa_register rsp for rsp + 56, the offset it had before.
TEST(CfiProgram, ACfaRegisterAfterAnExpressionKeepsTheOffset) {
    const Bytes expression = {DW_CFA_def_cfa_expression, 4, breg(RSP), 8, DW_OP_deref, DW_OP_nop};
    const auto cfa = [](const Bytes &instructions, const Bytes &initial = testing::usual_cie_instructions()) {
        const Outcome result = run(instructions, initial);
        return result.status ? result.last().cfa : CfaRule{};
    };
    const auto of = [](uint8_t reg, int64_t offset) { return CfaRule{CfaRule::Kind::kRegister, reg, 0, offset}; };
    const Bytes to_rsp = {DW_CFA_def_cfa_register, RSP};
    EXPECT_EQ(cfa(Bytes().def_cfa_offset(56).add({DW_CFA_def_cfa_register, RAX}).add(expression).add(to_rsp)),
              of(RSP, 56));
    // It belongs to the state that is remembered.
    EXPECT_EQ(cfa(Bytes()
                      .def_cfa_offset(56)
                      .add(expression)
                      .add({DW_CFA_remember_state, DW_CFA_def_cfa, RSP, 8, DW_CFA_restore_state})
                      .add(to_rsp)),
              of(RSP, 56));
    // There has to be one.
    EXPECT_EQ(cfa(Bytes(expression).add(to_rsp), Bytes()), CfaRule{});
}

TEST(CfiProgram, TruncatedOperandsAreMalformed) {
    for (const Bytes &instruction :
         {Bytes().u8(DW_CFA_advance_loc4).u32(1), Bytes().u8(DW_CFA_advance_loc2).u16(1), Bytes().def_cfa(RSP, 300),
          Bytes().u8(DW_CFA_offset_extended).uleb(RBX).uleb(300), Bytes().u8(DW_CFA_set_loc).u64(kStart + 1)}) {
        for (size_t size = 1; size < instruction.size(); ++size) {
            // Straight into a program, without the padding of a section.
            Fde fde;
            fde.start = LinkAddr(kStart);
            fde.end = LinkAddr(kStart + 16);
            fde.cie.code_alignment = 1;
            fde.cie.data_alignment = -8;
            fde.instructions = std::span(instruction.data()).first(size);
            Rows rows;
            const Status status = run_cfi_program(fde, rows);
            ASSERT_FALSE(status) << int{instruction.data()[0]} << " " << size;
            EXPECT_EQ(status.error().value, instruction.data()[0]);
        }
    }
}

TEST(CfiProgram, NoRowBeyondTheFdesEnd) {
    const Outcome result = run(Bytes().u8(DW_CFA_advance_loc4).u32(kLength).def_cfa_offset(16).advance(1).u8(0x3f));
    EXPECT_TRUE(result.status); // nothing behind the end can matter
    ASSERT_EQ(result.rows.size(), 1u);
    EXPECT_EQ(result.rows[0].end, LinkAddr(kStart + kLength));
    EXPECT_TRUE(run(Bytes().u8(DW_CFA_advance_loc4).u32(kLength).u8(0x3f)).status);
    EXPECT_FALSE(run(Bytes().u8(DW_CFA_advance_loc4).u32(kLength - 1).u8(0x3f)).status);
}

TEST(CfiProgram, NoEmptyRow) {
    const Outcome result = run(Bytes().advance(0).def_cfa_offset(16).advance(1).advance(0));
    ASSERT_TRUE(result.status);
    ASSERT_EQ(result.rows.size(), 2u);
    EXPECT_EQ(result.rows[0].state.cfa.value, 16);

    Fde fde; // of no length
    fde.start = fde.end = LinkAddr(kStart);
    Rows rows;
    EXPECT_TRUE(run_cfi_program(fde, rows));
    EXPECT_TRUE(rows.seen.empty());
}

TEST(CfiProgram, AVisitorStopsIt) {
    FrameSection bytes;
    const size_t offset = bytes.fde(bytes.cie(), kStart, kLength, Bytes().advance(1).advance(1).u8(0x3f));
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(), LinkAddr(), LinkAddr());
    Rows rows;
    rows.limit = 1;
    EXPECT_TRUE(run_cfi_program(*section.fde_at(offset), rows));
    EXPECT_EQ(rows.seen.size(), 1u);
}

TEST(CfiProgram, RowAtExecutesUpToTheAddress) {
    FrameSection bytes;
    const size_t offset =
        bytes.fde(bytes.cie(), kStart, 0x100, Bytes().advance(4).def_cfa_offset(16).advance(4).u8(0x3f));
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(), LinkAddr(), LinkAddr());
    const auto fde = section.fde_at(offset);
    ASSERT_TRUE(fde);
    EXPECT_EQ(row_at(*fde, LinkAddr(kStart + 3))->cfa.value, 8);
    EXPECT_EQ(row_at(*fde, LinkAddr(kStart + 4))->cfa.value, 16);
    EXPECT_EQ(row_at(*fde, LinkAddr(kStart + 8)).error().status, DWUNW_ERR_CFI_MALFORMED);
    // Outside the FDE there is none, whether the program is good or not.
    EXPECT_FALSE(row_at(*fde, LinkAddr(kStart - 1)));
    const size_t good = bytes.fde(0, kStart, 0x100);
    const CfiSection both(SectionKind::kEhFrame, bytes.data(), LinkAddr(), LinkAddr(), LinkAddr());
    for (const uint64_t address : {kStart - 1, kStart + 0x100}) {
        const auto none = row_at(*both.fde_at(good), LinkAddr(address));
        ASSERT_FALSE(none);
        EXPECT_EQ(none.error().status, DWUNW_ERR_NO_CFI);
        EXPECT_EQ(none.error().value, address);
    }
}

TEST(CfiProgram, AnyBytesEnd) {
    std::mt19937_64 random(11);
    size_t refused = 0;
    for (int round = 0; round < 50'000; ++round) {
        Bytes program;
        for (uint64_t size = random() % 40; size > 0; --size)
            program.u8(random());
        const Outcome result = run(program);
        refused += !result.status;
        uint64_t end = kStart;
        for (const SeenRow &row : result.rows) {
            ASSERT_EQ(row.start.value, end);
            ASSERT_LT(row.start, row.end);
            end = row.end.value;
        }
        ASSERT_LE(end, kStart + kLength);
    }
    EXPECT_GT(refused, 1000u);
}

} // namespace
} // namespace dwunw::dwarf
