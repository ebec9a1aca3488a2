// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Rules as words: a rule that fits is decoded unchanged, any other one is for user space.
#include "bpf/table_encoding.h"

#include "support/cfi_bytes.h"

#include <dwunw/bpf/dwunw_types.h>

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

using testing::x86_64;
using unwind::CfaKind;
using unwind::Rule;
using unwind::ValueKind;
using enum testing::Reg;

Rule usual(int32_t cfa_offset) {
    Rule rule;
    rule.cfa_reg = RSP;
    rule.cfa_offset = cfa_offset;
    rule.ra_kind = ValueKind::kAtCfa;
    rule.ra_offset = -8;
    return rule;
}

uint64_t word(const Rule &rule) { return rule_word(rule, x86_64()); }
uint64_t kind(const Rule &rule) { return word(rule) & 7; }

TEST(RuleWord, OffsetsComeBackToTheirLimits) {
    for (const int32_t cfa : {8, 9, 16, 1048720, (1 << 21) - 1, -8, -(1 << 21)}) {
        for (const int32_t fp : {-16, -8, 0, 32767, -32768}) {
            Rule rule = usual(cfa);
            rule.fp_kind = ValueKind::kAtCfa;
            rule.fp_offset = fp;
            const uint64_t w = word(rule);
            EXPECT_EQ(w & 7, DWUNW_RULE_CFA_SP);
            EXPECT_EQ(DWUNW_RULE_FIELD(w, CFA_OFFSET), cfa);
            EXPECT_EQ(DWUNW_RULE_FIELD(w, FP_OFFSET), fp);
            EXPECT_EQ(DWUNW_RULE_FIELD(w, RA_OFFSET), -8);
            EXPECT_EQ(w >> DWUNW_RULE_FP_SHIFT & 7, DWUNW_RULE_FP_AT_CFA);
            EXPECT_EQ(w & DWUNW_RULE_SIGNAL, 0);
        }
    }
}

TEST(RuleWord, ARuleThatDoesNotFitIsForUserSpace) {
    EXPECT_EQ(kind(usual(1 << 21)), DWUNW_RULE_CFA_ELSEWHERE);
    EXPECT_EQ(kind(usual(-(1 << 21) - 1)), DWUNW_RULE_CFA_ELSEWHERE);
    Rule rule = usual(8);
    rule.fp_kind = ValueKind::kAtCfa;
    rule.fp_offset = 32768;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    rule = usual(8);
    rule.ra_offset = 1024;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    rule.ra_offset = 1023;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_SP);
    rule = usual(8);
    rule.cfa_kind = CfaKind::kDeref;
    rule.cfa_addend = 4;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    rule.cfa_addend = 31 * 8;
    EXPECT_EQ(DWUNW_RULE_FIELD(word(rule), ADDEND), 31);
    rule.cfa_addend = 32 * 8;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
}

TEST(RuleWord, AReturnAddressInItsRegisterIsForUserSpace) {
    Rule rule = usual(8);
    rule.ra_kind = ValueKind::kSame;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
}

TEST(RuleWord, OtherRegistersAndExpressionsAreLeftToUserSpace) {
    Rule rule = usual(8);
    rule.cfa_reg = R10;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    rule = usual(8);
    rule.needs_interpreter = true;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    // And where the code has put SP elsewhere.
    rule = usual(8);
    rule.cfa_kind = CfaKind::kLost;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    for (const ValueKind value : {ValueKind::kExpression, ValueKind::kValExpression, ValueKind::kRegister}) {
        rule = usual(8);
        rule.fp_kind = value;
        EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    }
    for (const ValueKind value : {ValueKind::kSame, ValueKind::kCfaPlus, ValueKind::kRegister}) {
        rule = usual(8);
        rule.ra_kind = value;
        EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ELSEWHERE);
    }
}

TEST(RuleWord, TheRootIsARootWithAnyOtherFields) {
    Rule rule = usual(8);
    rule.ra_kind = ValueKind::kUndefined;
    rule.cfa_reg = R10;
    rule.needs_interpreter = true;
    EXPECT_EQ(kind(rule), DWUNW_RULE_CFA_ROOT);
}

TEST(RuleWord, NoRuleIsEncodedAsZero) {
    Rule rule = usual(0);
    rule.ra_offset = 0;
    EXPECT_EQ(word(rule), 0u) << "CFA = SP, RA = [CFA]: the one word that stands for no rule";
}

} // namespace
} // namespace dwunw::bpf
