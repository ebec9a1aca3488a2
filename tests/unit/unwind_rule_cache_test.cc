// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "unwind/rule_cache.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>

namespace dwunw::unwind {
namespace {

using testing::x86_64;
using enum testing::Reg;

Rule usual(int32_t cfa_offset) {
    Rule rule;
    rule.cfa_reg = RSP;
    rule.cfa_offset = cfa_offset;
    rule.ra_kind = ValueKind::kAtCfa;
    rule.ra_offset = -8;
    return rule;
}

Rule saves_fp(Rule rule, int32_t offset) {
    rule.fp_kind = ValueKind::kAtCfa;
    rule.fp_offset = offset;
    return rule;
}

Rule from_fp(Rule rule) {
    rule.cfa_reg = RBP;
    return rule;
}

constexpr int32_t kMostCfa = 8 * ((1 << 18) - 1);
constexpr int32_t kMostFp = -8 * ((1 << 13) - 1);

TEST(PackedRule, UnpacksToTheSameRule) {
    for (const Rule &rule : {usual(8), usual(kMostCfa), from_fp(usual(16)), saves_fp(usual(16), -16),
                             saves_fp(from_fp(usual(kMostCfa)), kMostFp), saves_fp(usual(24), -8)}) {
        for (const uint32_t place : {0u, 1u, PackedRule::kMaxPlace}) {
            const auto packed = PackedRule::pack(rule, x86_64(), place);
            ASSERT_TRUE(packed);
            EXPECT_FALSE(packed->is_root());
            EXPECT_EQ(packed->cfa_from_fp(), rule.cfa_reg == RBP);
            EXPECT_EQ(packed->cfa_offset(), static_cast<uint64_t>(rule.cfa_offset));
            EXPECT_EQ(packed->fp_distance(), static_cast<uint64_t>(-rule.fp_offset));
            EXPECT_EQ(packed->place(), place);
        }
    }
    Rule root = usual(8);
    root.ra_kind = ValueKind::kUndefined;
    const auto packed = PackedRule::pack(root, x86_64(), 7);
    ASSERT_TRUE(packed);
    EXPECT_TRUE(packed->is_root());
    EXPECT_EQ(packed->place(), 7u);
}

TEST(PackedRule, ARuleWithoutCfiKeepsItsFacts) {
    for (const bool set_up : {false, true}) {
        auto packed = PackedRule::without_cfi(7, set_up);
        ASSERT_TRUE(packed);
        EXPECT_TRUE(packed->is_without_cfi());
        EXPECT_FALSE(packed->is_root());
        EXPECT_EQ(packed->frame_is_set_up(), set_up);
        EXPECT_FALSE(packed->is_after_call());
        packed->set_after_call();
        EXPECT_TRUE(packed->is_after_call());
        EXPECT_TRUE(packed->is_without_cfi());
        // CFA = FP + 16; FP = [CFA − 16]
        EXPECT_TRUE(packed->cfa_from_fp());
        EXPECT_EQ(packed->cfa_offset(), 16u);
        EXPECT_EQ(packed->fp_distance(), 16u);
        EXPECT_EQ(packed->place(), 7u);
    }
    EXPECT_FALSE(PackedRule::without_cfi(PackedRule::kMaxPlace + 1, true));
}

TEST(PackedRule, ARuleThatDoesNotFitIsNotPacked) {
    EXPECT_FALSE(PackedRule::pack(usual(8), x86_64(), PackedRule::kMaxPlace + 1));
    std::vector<Rule> rules = {usual(0), usual(-8), usual(12), usual(kMostCfa + 8)};
    for (const int32_t offset : {8, 0, -12, kMostFp - 8})
        rules.push_back(saves_fp(usual(16), offset));
    for (int i = 0; i < 7; ++i)
        rules.push_back(usual(16));
    rules[8].needs_interpreter = true;
    rules[9].signal_frame = true;
    rules[10].cfa_kind = CfaKind::kDeref;
    rules[11].cfa_kind = CfaKind::kPlt;
    rules[12].cfa_reg = RIP;
    rules[13].ra_offset = -16;
    rules[14].ra_kind = ValueKind::kRegister;
    for (const ValueKind kind : {ValueKind::kUndefined, ValueKind::kCfaPlus, ValueKind::kRegister,
                                 ValueKind::kAtRegister, ValueKind::kExpression, ValueKind::kValExpression}) {
        rules.push_back(usual(16));
        rules.back().fp_kind = kind;
    }
    for (size_t i = 0; i < rules.size(); ++i)
        EXPECT_FALSE(PackedRule::pack(rules[i], x86_64(), 0)) << i;
}

TEST(PackedRule, ACfaFromAnotherRegister) {
    for (const testing::Reg reg : {RAX, RBX, R10, R11, R15}) {
        constexpr int32_t kMost = ((1 << 14) - 1) * 8;
        for (const int32_t offset : {0, 8, 16, kMost}) {
            Rule rule = saves_fp(usual(offset), -16);
            rule.cfa_reg = reg;
            const auto packed = PackedRule::pack(rule, x86_64(), 7);
            ASSERT_TRUE(packed);
            EXPECT_TRUE(packed->cfa_from_other());
            EXPECT_FALSE(packed->cfa_from_fp());
            EXPECT_FALSE(packed->is_root());
            EXPECT_FALSE(packed->is_without_cfi());
            EXPECT_EQ(packed->cfa_register(), reg);
            EXPECT_EQ(packed->offset_from_other(), static_cast<uint64_t>(offset));
            EXPECT_EQ(packed->fp_distance(), 16u);
            EXPECT_EQ(packed->place(), 7u);
        }
        for (const int32_t offset : {-8, 12, kMost + 8}) {
            Rule rule = usual(offset);
            rule.cfa_reg = reg;
            EXPECT_FALSE(PackedRule::pack(rule, x86_64(), 7)) << offset;
        }
    }
    EXPECT_FALSE(PackedRule::pack(usual(8), x86_64(), 0)->cfa_from_other());
    EXPECT_FALSE(PackedRule::without_cfi(0, true)->cfa_from_other());
}

class RuleCacheTest : public ::testing::Test {
  protected:
    std::unique_ptr<RuleCache> cache_ = std::make_unique<RuleCache>();
    PackedRule rule_ = *PackedRule::pack(saves_fp(usual(48), -16), x86_64(), 3);
};

TEST_F(RuleCacheTest, FindsTheInsertedRule) {
    const auto call = CodeAddr::return_address(RunAddr(0x7f0012345678));
    EXPECT_FALSE(cache_->find(call, 1));
    cache_->insert(call, 1, rule_);
    ASSERT_TRUE(cache_->find(call, 1));
    EXPECT_EQ(cache_->find(call, 1)->cfa_offset(), 48u);
    EXPECT_EQ(cache_->find(call, 1)->place(), 3u);
    // The same address as an instruction may have another rule.
    EXPECT_FALSE(cache_->find(CodeAddr::instruction(RunAddr(0x7f0012345678)), 1));
    EXPECT_FALSE(cache_->find(CodeAddr::return_address(RunAddr(0x7f0012345679)), 1));
}

TEST_F(RuleCacheTest, AnotherGenerationIsEmpty) {
    const auto pc = CodeAddr::instruction(RunAddr(0x401000));
    cache_->insert(pc, 5, rule_);
    for (const uint64_t generation : {0ull, 1ull, 4ull, 6ull, 5ull + (1ull << 16), 5ull + (1ull << 28)})
        EXPECT_FALSE(cache_->find(pc, generation)) << generation;
    EXPECT_TRUE(cache_->find(pc, 5));
    cache_->insert(pc, 5 + (1ull << 16), rule_);
    EXPECT_FALSE(cache_->find(pc, 5));
}

TEST_F(RuleCacheTest, CallsAtTheirOwnAddressesAndGenerations) {
    std::mt19937_64 random(3);
    for (int i = 0; i < 100'000; ++i) {
        const RunAddr address(random() >> 17);
        const uint64_t generation = 1 + random() % 1000;
        const bool follows = (random() & 1) != 0;
        EXPECT_EQ(cache_->follows_call(address, generation), std::nullopt);
        cache_->remember_call(address, generation, follows);
        EXPECT_EQ(cache_->follows_call(address, generation), follows);
        EXPECT_EQ(cache_->follows_call(address, generation + 1), std::nullopt);
        EXPECT_EQ(cache_->follows_call(address + 1, generation), std::nullopt);
    }
    const RunAddr kernel(~uint64_t{0});
    cache_->remember_call(kernel, 1, true);
    EXPECT_EQ(cache_->follows_call(RunAddr(kernel.value >> 17), 1), std::nullopt);
}

// With 5-level paging there are addresses that the keys have no room for.
TEST_F(RuleCacheTest, WideAddressesAreNotKept) {
    for (const uint64_t address : {uint64_t{1} << 47, 0xffffffffffe000u, 0xffffffffff600000u}) {
        const auto pc = CodeAddr::instruction(RunAddr(address));
        cache_->insert(pc, 1, rule_);
        EXPECT_FALSE(cache_->find(pc, 1));
        EXPECT_FALSE(cache_->find(CodeAddr::instruction(RunAddr(address & ((uint64_t{1} << 47) - 1))), 1));
        cache_->remember_call(RunAddr(address), 1, true);
        EXPECT_EQ(cache_->follows_call(RunAddr(address), 1), std::nullopt);
        EXPECT_EQ(cache_->follows_call(RunAddr(address & ((uint64_t{1} << 47) - 1)), 1), std::nullopt);
    }
}

TEST_F(RuleCacheTest, NoWideAddressHasTheRuleOfAnother) {
    constexpr uint64_t kNarrow = 0x401234;
    cache_->insert(CodeAddr::instruction(RunAddr(kNarrow)), 1, rule_);
    cache_->remember_call(RunAddr(kNarrow), 1, true);
    for (uint64_t above = 1; above < uint64_t{1} << 17; ++above) {
        const RunAddr wide(kNarrow | above << 47);
        EXPECT_FALSE(cache_->find(CodeAddr::instruction(wide), 1));
        EXPECT_EQ(cache_->follows_call(wide, 1), std::nullopt);
    }
}

// An entry of the empty cache is not a rule for anything.
TEST_F(RuleCacheTest, EmptyAtEveryAddress) {
    EXPECT_FALSE(cache_->find(CodeAddr::instruction(RunAddr(0)), 1));
    std::mt19937_64 random(3);
    for (int i = 0; i < 100'000; ++i)
        ASSERT_FALSE(cache_->find(CodeAddr::return_address(RunAddr(random() >> 17)), 1 + random() % 1000));
}

// Threads overwrite each other's entries all the time; every entry that is found must belong to its pc.
TEST_F(RuleCacheTest, ThreadsThatWriteAndRead) {
    constexpr uint64_t kPcs = 40'000; // ten for each entry
    const auto rule_of = [](uint64_t pc) {
        return *PackedRule::pack(usual(static_cast<int32_t>(8 + 8 * (pc % 997))), x86_64(),
                                 static_cast<uint32_t>(pc % 61));
    };
    std::atomic<uint64_t> found = 0;
    std::atomic<uint64_t> wrong = 0;
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed)
        threads.emplace_back([&, seed] {
            std::mt19937_64 random(seed);
            for (int i = 0; i < 300'000; ++i) {
                const uint64_t number = random() % kPcs;
                const auto pc = CodeAddr::return_address(RunAddr(0x400000 + number));
                if (const auto rule = cache_->find(pc, 1)) {
                    const PackedRule expected = rule_of(number);
                    ++found;
                    wrong += rule->cfa_offset() != expected.cfa_offset() || rule->place() != expected.place();
                } else {
                    cache_->insert(pc, 1, rule_of(number));
                }
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_GT(found, 1000u);
}

TEST_F(RuleCacheTest, AnUnwrittenRegisterBelongsToBothFramesAndOneGeneration) {
    const RunAddr inner(0x7f0000001234);
    const RunAddr outer(0x7f0000005678);
    EXPECT_FALSE(cache_->is_unwritten(inner, outer, RAX, 1));
    cache_->remember_unwritten(inner, outer, RAX, 1);
    EXPECT_TRUE(cache_->is_unwritten(inner, outer, RAX, 1));
    EXPECT_FALSE(cache_->is_unwritten(inner, outer, R11, 1));
    EXPECT_FALSE(cache_->is_unwritten(inner + 1, outer, RAX, 1));
    EXPECT_FALSE(cache_->is_unwritten(inner, outer + 1, RAX, 1));
    for (const uint64_t generation : {uint64_t{2}, uint64_t{1} + (1 << 16), uint64_t{1} + (1 << 28)})
        EXPECT_FALSE(cache_->is_unwritten(inner, outer, RAX, generation)) << generation;
    // No address of x86-64's user space.
    cache_->remember_unwritten(inner, RunAddr(uint64_t{1} << 47), RAX, 1);
    EXPECT_FALSE(cache_->is_unwritten(inner, RunAddr(uint64_t{1} << 47), RAX, 1));
    EXPECT_FALSE(cache_->is_unwritten(RunAddr(0), RunAddr(0), RAX, 1));
}

} // namespace
} // namespace dwunw::unwind
