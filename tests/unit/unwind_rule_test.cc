// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests which rows the fast walk can carry, and how each shape that compilers emit becomes a rule.
#include "unwind/rule.h"

#include "dwarf/expression.h"
#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

namespace dwunw::unwind {
namespace {

using testing::Bytes;
using testing::FrameSection;
using testing::x86_64;
using enum testing::Reg;
using namespace dwarf;

// The rule of the last row of a function with these instructions.
Result<Rule> rule_of(const Bytes &instructions, const std::string &augmentation = "zR") {
    FrameSection bytes;
    const size_t cie = bytes.cie(testing::usual_cie_instructions(), augmentation);
    const size_t offset = bytes.fde(cie, 0x1000, 0x100, instructions);
    const CfiSection section(SectionKind::kEhFrame, bytes.data(), LinkAddr(), LinkAddr(), LinkAddr());
    auto fde = section.fde_at(offset);
    if (!fde)
        return fde.error();
    auto state = row_at(*fde, LinkAddr(0x10ff));
    if (!state)
        return state.error();
    return make_rule(table_state(*state, {RSP, RBP, RIP}), fde->cie, section.bytes(), x86_64());
}

Rule good_rule(const Bytes &instructions) {
    auto rule = rule_of(instructions);
    EXPECT_TRUE(rule);
    return rule ? *rule : Rule{};
}

TEST(Rule, AFunctionsFirstRow) {
    const Rule rule = good_rule({});
    EXPECT_EQ(rule, (Rule{.cfa_kind = CfaKind::kRegister,
                          .cfa_reg = RSP,
                          .ra_kind = ValueKind::kAtCfa,
                          .fp_kind = ValueKind::kSame,
                          .cfa_offset = 8,
                          .ra_offset = -8}));
}

TEST(Rule, AFramePointerFunction) {
    const Rule rule = good_rule(Bytes().def_cfa(RBP, 16).offset(RBP, 2));
    EXPECT_EQ(rule.cfa_reg, RBP);
    EXPECT_EQ(rule.cfa_offset, 16);
    EXPECT_EQ(rule.fp_kind, ValueKind::kAtCfa);
    EXPECT_EQ(rule.fp_offset, -16);
    EXPECT_FALSE(rule.needs_interpreter);
}

TEST(Rule, RulesThatTheFastWalkCannotCarry) {
    for (const Bytes &instructions : {
             Bytes({DW_CFA_register, RBP, RBX}),                         // rbp is in rbx
             Bytes({DW_CFA_register, RIP, RCX}),                         // the return address is in rcx
             Bytes({DW_CFA_def_cfa_expression, 2, DW_OP_breg0 + 10, 0}), // an expression without a shape
             Bytes({DW_CFA_expression, RBP, 2, DW_OP_breg0 + 10, 0}),    // rbp saved relative to r10
             Bytes({DW_CFA_val_expression, RBP, 2, DW_OP_breg0 + 7, 0}), // rbp computed
             Bytes({DW_CFA_val_expression, RIP, 2, DW_OP_breg0 + 7, 0}), //
             Bytes({testing::cfa_offset(RSP), 2}),                       // SP is not the CFA
             Bytes({DW_CFA_val_offset, RSP, 1}),                         //
         })
        EXPECT_TRUE(good_rule(instructions).needs_interpreter);
    // A CFA from another register is the walk's to decide: in frame 0 it is known.
    const Rule from_r10 = good_rule(Bytes().def_cfa(R10, 0));
    EXPECT_FALSE(from_r10.needs_interpreter);
    EXPECT_FALSE(from_r10.carries_cfa(x86_64()));
    EXPECT_TRUE(good_rule({}).carries_cfa(x86_64()));
    EXPECT_TRUE(good_rule(Bytes().def_cfa(RBP, 16)).carries_cfa(x86_64()));
    // Registers that neither walk's CFA depends on change nothing.
    EXPECT_FALSE(good_rule(Bytes().offset(RBX, 2).offset(R12, 3)).needs_interpreter);
    EXPECT_FALSE(good_rule(Bytes({DW_CFA_val_offset, RSP, 0})).needs_interpreter);
}

TEST(Rule, TheDrapPrologue) {
    // gcc realigns: CFA = *(rbp − 8), rbp saved at rbp + 0.
    const Rule rule = good_rule(Bytes({DW_CFA_expression, RBP, 2, DW_OP_breg0 + 6, 0})
                                    .add({DW_CFA_def_cfa_expression, 3, DW_OP_breg0 + 6, 0x78, DW_OP_deref}));
    EXPECT_EQ(rule.cfa_kind, CfaKind::kDeref);
    EXPECT_EQ(rule.cfa_reg, RBP);
    EXPECT_EQ(rule.cfa_offset, -8);
    EXPECT_EQ(rule.cfa_addend, 0);
    EXPECT_EQ(rule.fp_kind, ValueKind::kAtRegister);
    EXPECT_EQ(rule.fp_reg, RBP);
    EXPECT_EQ(rule.fp_offset, 0);
    EXPECT_FALSE(rule.needs_interpreter);
}

TEST(Rule, LibcryptosEpilogueIsADeref) {
    // CFA = *(rsp − 8) + 8
    const Rule rule =
        good_rule(Bytes({DW_CFA_def_cfa_expression, 5, DW_OP_breg0 + 7, 0x78, DW_OP_deref, DW_OP_plus_uconst, 8}));
    EXPECT_EQ(rule.cfa_kind, CfaKind::kDeref);
    EXPECT_EQ(rule.cfa_reg, RSP);
    EXPECT_EQ(rule.cfa_offset, -8);
    EXPECT_EQ(rule.cfa_addend, 8);
}

TEST(Rule, ThePltHasAKind) {
    const Rule rule =
        good_rule(Bytes({DW_CFA_def_cfa_expression, 11, DW_OP_breg0 + 7, 8, DW_OP_breg0 + 16, 0, DW_OP_lit0 + 15,
                         DW_OP_and, DW_OP_lit0 + 11, DW_OP_ge, DW_OP_lit0 + 3, DW_OP_shl, DW_OP_plus}));
    EXPECT_EQ(rule.cfa_kind, CfaKind::kPlt);
    EXPECT_EQ(rule.cfa_reg, RSP);
    EXPECT_EQ(rule.cfa_offset, 8);
    EXPECT_EQ(rule.cfa_addend, 11);
    EXPECT_FALSE(rule.needs_interpreter);
}

TEST(Rule, ASignalFrame) {
    auto rule = rule_of(Bytes({DW_CFA_def_cfa_expression, 4, DW_OP_breg0 + 7, 0xa0, 1, DW_OP_deref})
                            .add({DW_CFA_expression, RIP, 3, DW_OP_breg0 + 7, 0xa8, 1})
                            .add({DW_CFA_expression, RBP, 3, DW_OP_breg0 + 7, 0xf8, 0})
                            .add({DW_CFA_expression, RSP, 3, DW_OP_breg0 + 7, 0xa0, 1}),
                        "zRS");
    ASSERT_TRUE(rule);
    // Each register from its place in the ucontext at SP.
    EXPECT_EQ(*rule, (Rule{.cfa_kind = CfaKind::kDeref,
                           .cfa_reg = RSP,
                           .ra_kind = ValueKind::kAtRegister,
                           .ra_reg = RSP,
                           .fp_kind = ValueKind::kAtRegister,
                           .fp_reg = RSP,
                           .signal_frame = true,
                           .cfa_offset = 160,
                           .ra_offset = 168,
                           .fp_offset = 120}));
    EXPECT_TRUE(rule->signal_frame);
    EXPECT_FALSE(rule->needs_interpreter);
}

TEST(Rule, TheOutermostFrame) { EXPECT_EQ(good_rule(Bytes({DW_CFA_undefined, RIP})).ra_kind, ValueKind::kUndefined); }

TEST(Rule, OffsetsBeyondTheFormatAreRefused) {
    auto rule = rule_of(Bytes().def_cfa_offset(uint64_t{1} << 31));
    ASSERT_FALSE(rule);
    EXPECT_EQ(rule.error().status, DWUNW_ERR_LIMIT);
    rule = rule_of(Bytes().offset(RIP, uint64_t{1} << 28)); // × −8
    EXPECT_TRUE(rule);
    rule = rule_of(Bytes().offset(RIP, (uint64_t{1} << 28) + 1));
    ASSERT_FALSE(rule);
    EXPECT_EQ(rule.error().status, DWUNW_ERR_LIMIT);
    rule = rule_of(Bytes().offset(RBP, uint64_t{1} << 40));
    ASSERT_FALSE(rule);
    EXPECT_EQ(rule.error().status, DWUNW_ERR_LIMIT);

    const TableState nothing;
    Cie cie;
    cie.return_address_register = RIP;
    rule = make_rule(nothing, cie, {}, x86_64());
    ASSERT_FALSE(rule);
    EXPECT_EQ(rule.error().status, DWUNW_ERR_CFI_MALFORMED); // no CFA
}

} // namespace
} // namespace dwunw::unwind
