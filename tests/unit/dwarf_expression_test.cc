// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "dwarf/expression.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace dwunw::dwarf {
namespace {

using testing::breg;
using testing::Bytes;
using enum testing::Reg;

// Registers hold 0x1000 × number, memory at A holds A + 1; what is at 0 cannot be read.
class Context final : public ExpressionContext {
  public:
    Result<uint64_t> read_register(uint64_t reg) override {
        if (reg > RIP)
            return Error{DWUNW_ERR_REGISTER_UNKNOWN, reg};
        return reg == RIP ? pc : reg * 0x1000;
    }
    Result<uint64_t> read_memory(RunAddr address, size_t size) override {
        if (address.value == 0)
            return Error{DWUNW_ERR_MEMORY_UNREADABLE};
        const uint64_t value = address.value + 1;
        return size == 8 ? value : value & ((uint64_t{1} << (8 * size)) - 1);
    }
    RunAddr relocate(LinkAddr address) override { return RunAddr(address.value + 0x400000); }

    uint64_t pc = uint64_t{RIP} * 0x1000;
};

Result<uint64_t> evaluated(const Bytes &expression, std::optional<uint64_t> initial = std::nullopt) {
    Context context;
    return evaluate(expression.data(), context, initial);
}

uint64_t value_of(const Bytes &expression, std::optional<uint64_t> initial = std::nullopt) {
    const auto value = evaluated(expression, initial);
    EXPECT_TRUE(value) << dwunw_status_string(value ? DWUNW_OK : value.error().status);
    return value ? *value : 0xbad;
}

constexpr auto kMinus = [](uint64_t value) { return -value; };

TEST(Expression, ConstantsAreTheirValues) {
    for (int n = 0; n < 32; ++n)
        EXPECT_EQ(value_of({DW_OP_lit0 + n}), static_cast<uint64_t>(n));
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_addr).u64(0x1234)), 0x401234u);
    EXPECT_EQ(value_of({DW_OP_const1u, 0xff}), 0xffu);
    EXPECT_EQ(value_of({DW_OP_const1s, 0xff}), kMinus(1));
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_const2u).u16(0xfffe)), 0xfffeu);
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_const2s).u16(0xfffe)), kMinus(2));
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_const4u).u32(0xfffffffe)), 0xfffffffeu);
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_const4s).u32(0xfffffffe)), kMinus(2));
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_const8u).u64(~uint64_t{0})), ~uint64_t{0});
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_const8s).u64(~uint64_t{0})), ~uint64_t{0});
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_constu).uleb(0x123456)), 0x123456u);
    EXPECT_EQ(value_of(Bytes().u8(DW_OP_consts).sleb(-0x123456)), kMinus(0x123456));
}

TEST(Expression, RegistersAndMemory) {
    EXPECT_EQ(value_of({breg(RSP), 8}), 0x7008u);
    EXPECT_EQ(value_of({breg(RBP), 0x78}), 0x5ff8u); // −8
    EXPECT_EQ(value_of({DW_OP_bregx, RIP, 1}), 0x10001u);
    EXPECT_EQ(value_of({breg(RSP), 8, DW_OP_deref}), 0x7009u);
    EXPECT_EQ(value_of({breg(RSP), 8, DW_OP_deref_size, 1}), 0x09u);
    EXPECT_EQ(value_of({breg(RSP), 8, DW_OP_deref_size, 2}), 0x7009u);
    EXPECT_EQ(evaluated({DW_OP_bregx, 20, 0}).error().status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(evaluated({DW_OP_breg31, 0}).error().status, DWUNW_ERR_REGISTER_UNKNOWN);
    EXPECT_EQ(evaluated({DW_OP_lit0, DW_OP_deref}).error().status, DWUNW_ERR_MEMORY_UNREADABLE);
    for (const int size : {0, 3, 5, 9})
        EXPECT_EQ(evaluated({DW_OP_lit0 + 1, DW_OP_deref_size, size}).error().status, DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(value_of({DW_OP_plus_uconst, 5}, 0x100), 0x105u); // the CFA comes first
}

TEST(Expression, StackOperatorsMoveTheTop) {
    EXPECT_EQ(value_of({DW_OP_lit0 + 3, DW_OP_dup, DW_OP_plus}), 6u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 3, DW_OP_lit0 + 4, DW_OP_drop}), 3u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 3, DW_OP_lit0 + 4, DW_OP_over}), 3u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 3, DW_OP_lit0 + 4, DW_OP_lit0 + 5, DW_OP_pick, 2}), 3u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 9, DW_OP_lit0 + 4, DW_OP_swap, DW_OP_minus}), kMinus(5));
    // rot: the top goes down to the third place. 1 2 3 → 3 1 2
    EXPECT_EQ(value_of({DW_OP_lit0 + 1, DW_OP_lit0 + 2, DW_OP_lit0 + 3, DW_OP_rot}), 2u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 1, DW_OP_lit0 + 2, DW_OP_lit0 + 3, DW_OP_rot, DW_OP_drop}), 1u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 1, DW_OP_lit0 + 2, DW_OP_lit0 + 3, DW_OP_rot, DW_OP_drop, DW_OP_drop}), 3u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 7, DW_OP_nop}), 7u);
}

TEST(Expression, ArithmeticIsThatOfTheStandard) {
    const auto binary = [](int op, int64_t left, int64_t right) {
        return evaluated(
            Bytes().u8(DW_OP_consts).sleb(left).u8(DW_OP_consts).sleb(right).u8(static_cast<uint64_t>(op)));
    };
    const auto is = [&](int op, int64_t left, int64_t right, int64_t expected) {
        const auto value = binary(op, left, right);
        ASSERT_TRUE(value) << op;
        EXPECT_EQ(static_cast<int64_t>(*value), expected) << op;
    };
    constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
    constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
    is(DW_OP_and, 12, 10, 8);
    is(DW_OP_or, 12, 10, 14);
    is(DW_OP_xor, 12, 10, 6);
    is(DW_OP_plus, kMax, 1, kMin);
    is(DW_OP_minus, 3, 5, -2);
    is(DW_OP_mul, -3, 5, -15);
    is(DW_OP_div, -7, 2, -3); // signed
    is(DW_OP_div, 7, -1, -7);
    is(DW_OP_div, kMin, 2, kMin / 2);
    is(DW_OP_div, kMin, -1, kMin);
    is(DW_OP_mod, 7, 4, 3);
    is(DW_OP_shl, 3, 4, 48);
    is(DW_OP_shl, 3, 64, 0);
    is(DW_OP_shr, -1, 60, 15);
    is(DW_OP_shr, -1, 64, 0);
    is(DW_OP_shra, -16, 2, -4);
    is(DW_OP_shra, -16, 64, -1);
    is(DW_OP_shra, -16, 200, -1);
    is(DW_OP_eq, 3, 3, 1);
    is(DW_OP_ne, 3, 3, 0);
    is(DW_OP_lt, -1, 1, 1); // signed
    is(DW_OP_le, 1, 1, 1);
    is(DW_OP_gt, -1, 1, 0);
    is(DW_OP_ge, 11, 11, 1);
    is(DW_OP_lt, 1, 1, 0);
    is(DW_OP_gt, 1, 1, 0);
    for (const int op : {DW_OP_div, DW_OP_mod})
        EXPECT_EQ(binary(op, 1, 0).error().status, DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(value_of({DW_OP_lit0 + 5, DW_OP_neg}), kMinus(5));
    EXPECT_EQ(value_of({DW_OP_const1s, 0xfb, DW_OP_abs}), 5u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 5, DW_OP_abs}), 5u);
    EXPECT_EQ(value_of({DW_OP_lit0, DW_OP_not}), ~uint64_t{0});
}

TEST(Expression, BranchesGoToTheirTargets) {
    // if (1) skip a lit2
    EXPECT_EQ(value_of({DW_OP_lit0 + 9, DW_OP_lit0 + 1, DW_OP_bra, 1, 0, DW_OP_lit0 + 2}), 9u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 9, DW_OP_lit0, DW_OP_bra, 1, 0, DW_OP_lit0 + 2}), 2u);
    EXPECT_EQ(value_of({DW_OP_lit0 + 9, DW_OP_skip, 1, 0, DW_OP_lit0 + 2}), 9u); // to the end
    // A loop that counts ten down to nothing.
    EXPECT_EQ(value_of({DW_OP_lit0 + 10, DW_OP_lit0 + 1, DW_OP_minus, DW_OP_dup, DW_OP_bra, 0xfa, 0xff}), 0u);
    // From the first byte on.
    EXPECT_EQ(value_of({DW_OP_lit0 + 1, DW_OP_minus, DW_OP_dup, DW_OP_bra, 0xfa, 0xff}, 3), 0u);
    for (const Bytes &expression : {
             Bytes({DW_OP_lit0, DW_OP_skip, 0xfd, 0xff}), // for ever
             Bytes({DW_OP_lit0, DW_OP_skip, 0xfc, 0xff}), // for ever, and deeper
             Bytes({DW_OP_lit0, DW_OP_skip, 2, 0}),       // beyond the end
             Bytes({DW_OP_lit0, DW_OP_skip, 0xfb, 0xff}), // before the beginning
             Bytes({DW_OP_lit0, DW_OP_skip, 1}),          // truncated
             Bytes({DW_OP_bra, 0, 0}),                    // nothing to decide by
         })
        EXPECT_EQ(evaluated(expression).error().status, DWUNW_ERR_CFI_MALFORMED);
}

TEST(Expression, MalformedExpressionsAreRefused) {
    Bytes deep;
    for (size_t i = 0; i < kMaxExpressionStack; ++i)
        deep.u8(DW_OP_lit0);
    EXPECT_TRUE(evaluated(deep));
    EXPECT_EQ(evaluated(deep.u8(DW_OP_lit0)).error().status, DWUNW_ERR_CFI_MALFORMED);
    EXPECT_EQ(evaluated({}).error().status, DWUNW_ERR_CFI_MALFORMED); // no value
    for (const int op : {DW_OP_plus, DW_OP_drop, DW_OP_dup, DW_OP_over, DW_OP_swap, DW_OP_rot, DW_OP_deref, DW_OP_neg,
                         DW_OP_abs, DW_OP_not})
        EXPECT_EQ(evaluated({op}).error().status, DWUNW_ERR_CFI_MALFORMED) << op;
    EXPECT_EQ(evaluated({DW_OP_lit0, DW_OP_pick, 1}).error().status, DWUNW_ERR_CFI_MALFORMED);
    for (const int op :
         std::initializer_list<int>{DW_OP_const1u, DW_OP_const2s, DW_OP_const4u, DW_OP_const8u, DW_OP_constu,
                                    DW_OP_addr, DW_OP_breg0 + 7, DW_OP_bregx, DW_OP_plus_uconst})
        EXPECT_EQ(evaluated({DW_OP_lit0, op}).error().status, DWUNW_ERR_CFI_MALFORMED) << op;
    // call_frame_cfa, call2, fbreg, push_object_address, form_tls_address: not for CFI.
    for (const int op : {0x9c, 0x98, 0x91, 0x97, 0x9b, 0xff}) {
        const auto value = evaluated({DW_OP_lit0, op, 0, 0});
        EXPECT_EQ(value.error().status, DWUNW_ERR_UNSUPPORTED_EXPRESSION) << op;
        EXPECT_EQ(value.error().value, static_cast<uint64_t>(op));
    }
}

TEST(Expression, AnyBytesEnd) {
    std::mt19937_64 random(3);
    size_t values = 0;
    for (int round = 0; round < 100'000; ++round) {
        Bytes expression;
        for (uint64_t size = random() % 24; size > 0; --size)
            expression.u8(random());
        const auto value = evaluated(expression, random());
        values += value.ok();
        if (!value) {
            ASSERT_NE(value.error().status, DWUNW_OK);
        }
    }
    EXPECT_GT(values, 100u);
}

TEST(Recognise, TheShapesThatAreEmitted) {
    const auto shape = [](const Bytes &expression) { return recognise(expression.data(), RIP); };
    auto found = shape({breg(RBP), 0x70});
    ASSERT_TRUE(found);
    EXPECT_EQ(found->kind, SimpleExpression::Kind::kRegisterOffset);
    EXPECT_EQ(found->reg, RBP);
    EXPECT_EQ(found->offset, -16);
    found = shape({breg(RBP), 0x78, DW_OP_deref});
    ASSERT_TRUE(found);
    EXPECT_EQ(found->kind, SimpleExpression::Kind::kDeref);
    EXPECT_EQ(found->offset, -8);
    EXPECT_EQ(found->addend, 0);
    found = shape({breg(RSP), 0x78, DW_OP_deref, DW_OP_plus_uconst, 8});
    ASSERT_TRUE(found);
    EXPECT_EQ(found->addend, 8);
    const Bytes plt = {breg(RSP),       8,        breg(RIP),      0,         DW_OP_lit0 + 15, DW_OP_and,
                       DW_OP_lit0 + 11, DW_OP_ge, DW_OP_lit0 + 3, DW_OP_shl, DW_OP_plus};
    found = shape(plt);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->kind, SimpleExpression::Kind::kPlt);
    EXPECT_EQ(found->offset, 8);
    EXPECT_EQ(found->addend, 11);
    // Any entry's push, at any byte of the entry.
    Context context;
    for (uint8_t push = 0; push < 16; ++push) {
        Bytes other = plt;
        other.data()[6] = DW_OP_lit0 + push;
        found = shape(other);
        ASSERT_TRUE(found);
        EXPECT_EQ(found->addend, push);
        for (context.pc = 0x401000; context.pc < 0x401010; ++context.pc)
            EXPECT_EQ(*evaluate(other.data(), context, std::nullopt), (context.pc & 15) >= push ? 0x7010u : 0x7008u);
    }
    Bytes beyond = plt;
    beyond.data()[6] = DW_OP_lit0 + 16; // no entry is so long
    EXPECT_FALSE(shape(beyond));
    for (const int opcode : {DW_OP_breg0, DW_OP_breg31})
        EXPECT_EQ(shape(Bytes({opcode, 8}))->reg, opcode - DW_OP_breg0);
    // One byte changed anywhere, or one missing, is another expression; what is still recognised means the same.
    for (size_t i = 0; i < plt.size(); ++i) {
        Bytes cut = plt;
        cut.data().resize(i);
        if (i != 2) {
            EXPECT_FALSE(shape(cut)) << i;
        }
        for (int byte = 0; byte < 256; ++byte) {
            Bytes changed = plt;
            changed.data()[i] = static_cast<uint8_t>(byte);
            const auto other = shape(changed);
            if (!other || other->kind != SimpleExpression::Kind::kPlt || other->reg > RIP)
                continue;
            const auto value = evaluate(changed.data(), context, std::nullopt);
            ASSERT_TRUE(value);
            EXPECT_EQ(*value, *context.read_register(other->reg) + static_cast<uint64_t>(other->offset) +
                                  ((context.pc & 15) >= static_cast<uint64_t>(other->addend) ? 8 : 0));
        }
    }
    for (const Bytes &other :
         {Bytes(), Bytes({DW_OP_lit0}), Bytes({DW_OP_breg0}), Bytes({DW_OP_breg0, 0, DW_OP_dup}),
          Bytes({DW_OP_breg0, 0, DW_OP_deref, DW_OP_deref}), Bytes({DW_OP_breg0, 0, DW_OP_deref, DW_OP_plus_uconst}),
          Bytes({DW_OP_breg0, 0, DW_OP_deref, DW_OP_plus_uconst, 8, DW_OP_nop})})
        EXPECT_FALSE(shape(other));
}

} // namespace
} // namespace dwunw::dwarf
