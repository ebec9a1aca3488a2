// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests which rows are wrong in which functions. The functions are written instruction by instruction, as assemblers
// print them.
#include "arch/x86_64/arch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

namespace dwunw::arch::x86_64 {
namespace {

using Ranges = std::vector<std::pair<uint32_t, uint32_t>>; // start, end
using Rows = std::vector<SpRow>;

class Code {
  public:
    // Returns where the instruction begins.
    uint32_t add(std::initializer_list<uint8_t> instruction) {
        const auto at = static_cast<uint32_t>(bytes_.size());
        bytes_.insert(bytes_.end(), instruction);
        return at;
    }
    uint32_t size() const { return static_cast<uint32_t>(bytes_.size()); }
    const std::vector<uint8_t> &bytes() const { return bytes_; }

    Ranges lost(const Rows &rows) const {
        std::vector<CodeRange> ranges;
        find_lost_sp(bytes_, rows, ranges);
        Ranges result;
        for (const CodeRange &range : ranges)
            result.emplace_back(range.start, range.end);
        return result;
    }
    bool is_found() const { return find_sp_replacement(bytes_, 0) < bytes_.size(); }

    uint32_t nop() { return add({0x90}); }
    uint32_t ret() { return add({0xc3}); }
    uint32_t call() { return add({0xff, 0xd0}); }
    uint32_t switch_stacks() { return add({0x48, 0x8b, 0x66, 0x38}); } // mov 0x38(%rsi),%rsp
    uint32_t switch_back() { return add({0x48, 0x89, 0xf4}); }         // mov %rsi,%rsp
    uint32_t align() { return add({0x48, 0x83, 0xe4, 0xf0}); }         // and $-16,%rsp
    uint32_t push() { return add({0x53}); }
    uint32_t pop() { return add({0x5b}); }
    uint32_t sub(uint8_t bytes) { return add({0x48, 0x83, 0xec, bytes}); }
    uint32_t branch(uint8_t distance) { return add({0x74, distance}); }
    uint32_t jump(uint8_t distance) { return add({0xeb, distance}); }
    uint32_t jump_by_value() { return add({0xff, 0xe3}); }

  private:
    std::vector<uint8_t> bytes_;
};

const Rows kAlways8 = {{0, true, 8}};

// All that Go 1.19 says of runtime.asmcgocall is CFA = rsp+8.
TEST(LostSp, GosAsmcgocallLosesItsSp) {
    Code code;
    code.add({0x48, 0x89, 0xe2});       // mov %rsp,%rdx
    code.add({0x48, 0x83, 0xff, 0x00}); // cmp $0,%rdi
    code.branch(4 + 4 + 5 + 2 + 3 + 4 + 1);
    code.switch_stacks();
    const uint32_t switched = code.sub(0x40);
    code.add({0x48, 0x89, 0x7c, 0x24, 0x30}); // mov %rdi,0x30(%rsp)
    code.call();
    code.switch_back();
    code.add({0x89, 0x44, 0x24, 0x18}); // mov %eax,0x18(%rsp)
    const uint32_t returned = code.ret();
    const uint32_t on_system_stack = code.sub(0x40);
    const uint32_t subtracted = code.align();
    code.call();
    code.switch_back();
    const uint32_t end = code.ret();
    EXPECT_EQ(on_system_stack, returned + 1);
    EXPECT_TRUE(code.is_found());
    EXPECT_EQ(code.lost(kAlways8), (Ranges{{switched, returned}, {subtracted, end}}));
}

TEST(LostSp, OnlyBehindTheSwitch) {
    Code code;
    code.call();
    code.switch_stacks();
    const uint32_t behind = code.call();
    EXPECT_EQ(code.lost(kAlways8), (Ranges{{behind, code.size()}}));
}

TEST(LostSp, ReturnInstructionsAreRightForAnySp) {
    Code code;
    code.switch_stacks();
    code.ret();
    EXPECT_EQ(code.lost(kAlways8), Ranges{});
    EXPECT_EQ(code.lost({{0, true, 16}}), (Ranges{{4, 5}}));
}

TEST(LostSp, RowsThatFollowConstantsHold) {
    Code code;
    code.push();
    const uint32_t pushed = code.sub(0x20);
    const uint32_t subtracted = code.call();
    code.add({0x48, 0x83, 0xc4, 0x20}); // add $0x20,%rsp
    const uint32_t added = code.pop();
    const uint32_t popped = code.branch(5);
    code.switch_stacks();
    const uint32_t behind = code.nop();
    code.ret();
    const Rows rows = {{0, true, 8}, {pushed, true, 16}, {subtracted, true, 48}, {added, true, 16}, {popped, true, 8}};
    EXPECT_EQ(code.lost(rows), (Ranges{{behind, behind + 1}}));
}

// Where an instruction replaces SP, rows that leave out a constant are not believed either.
TEST(LostSp, AConstantThatTheRowsLeaveOut) {
    Code code;
    code.push();
    const uint32_t pushed = code.call();
    const uint32_t popped = code.pop() + 1;
    code.call();
    code.switch_stacks();
    const uint32_t switched = code.call();
    EXPECT_EQ(code.lost(kAlways8), (Ranges{{pushed, popped}, {switched, code.size()}}));
}

TEST(LostSp, TheRowsOfAFunctionWithoutAReplacementAreRight) {
    Code code;
    code.push();
    code.call();
    code.ret();
    EXPECT_EQ(code.lost(kAlways8), Ranges{});
    EXPECT_FALSE(code.is_found());
}

// push %rbp; mov %rsp,%rbp; and $-32,%rsp; …; leave; ret: what compilers write.
TEST(LostSp, AFrameByRbpAllowsEverything) {
    Code code;
    code.add({0x55});
    const uint32_t pushed = code.add({0x48, 0x89, 0xe5});
    const uint32_t set_up = code.add({0x48, 0x83, 0xe4, 0xe0});
    code.call();
    code.add({0x48, 0x29, 0xc4}); // sub %rax,%rsp
    code.call();
    code.add({0x48, 0x8d, 0x65, 0xf8}); // lea -8(%rbp),%rsp
    code.pop();
    code.add({0x5d});
    const uint32_t popped = code.ret();
    const Rows rows = {{0, true, 8}, {pushed, true, 16}, {set_up, false, 0}, {popped, true, 8}};
    EXPECT_TRUE(code.is_found());
    EXPECT_EQ(code.lost(rows), Ranges{});
}

// The CFA is in another register while SP changes, as in libcrypto and OpenBLAS: mov %rsp,%rax; .cfi_def_cfa_register
// rax; and $-64,%rsp; …; mov %rax,%rsp; .cfi_def_cfa_register rsp.
TEST(LostSp, ACfaInAnotherRegisterMeanwhile) {
    Code code;
    code.add({0x48, 0x89, 0xe0});
    const uint32_t saved = code.align();
    code.nop();
    code.add({0x48, 0x89, 0xc4});
    const uint32_t restored = code.nop();
    code.ret();
    EXPECT_EQ(code.lost({{0, true, 8}, {saved, false, 0}, {restored, true, 8}}), Ranges{});
}

// sub %rax,%rsp with a row for it: the rows' author knew rax.
TEST(LostSp, ARowThatChangesWithTheReplacement) {
    Code code;
    code.add({0x48, 0x29, 0xc4});
    const uint32_t behind = code.call();
    code.add({0x48, 0x01, 0xc4});
    const uint32_t restored = code.nop();
    code.ret();
    EXPECT_EQ(code.lost({{0, true, 8}, {behind, true, 0x5008}, {restored, true, 8}}), Ranges{});
    EXPECT_EQ(code.lost({{0, true, 8}}), (Ranges{{behind, restored + 1}}));
}

TEST(LostSp, AlongEveryPath) {
    Code code;
    const uint32_t loop = code.nop();
    code.branch(4);
    code.switch_stacks();
    const uint32_t joined = code.nop();        // reached with both stacks
    code.branch(static_cast<uint8_t>(-8 - 2)); // and so is the loop's beginning
    code.ret();
    EXPECT_EQ(code.lost(kAlways8), (Ranges{{loop, joined + 3}}));
}

TEST(LostSp, NoPathLeadsPastACallThatDoesNotReturn) {
    Code code;
    code.branch(1 + 4 + 2);
    code.push();
    const uint32_t pushed = code.switch_stacks();
    const uint32_t switched = code.call();
    const uint32_t other_path = code.nop(); // reached by the branch alone
    code.ret();
    const Rows rows = {{0, true, 8}, {pushed, true, 16}, {other_path, true, 8}};
    EXPECT_EQ(code.lost(rows), (Ranges{{switched, other_path}}));
}

TEST(LostSp, AJumpByValueWithSpLostMayLeadAnywhere) {
    Code code;
    code.nop();
    code.switch_stacks();
    const uint32_t jump = code.jump_by_value();
    code.call(); // no branch leads here
    code.ret();
    EXPECT_EQ(code.lost(kAlways8), (Ranges{{jump, code.size() - 1}}));
    // A jump table before the switch is one of the function's own.
    Code table;
    table.jump_by_value();
    table.call();
    table.ret();
    table.switch_stacks();
    const uint32_t switched = table.nop();
    EXPECT_EQ(table.lost(kAlways8), (Ranges{{switched, table.size()}}));
}

TEST(LostSp, BytesThatAreNotAnInstruction) {
    Code code;
    code.add({0x06, 0x06});
    code.switch_stacks();
    const uint32_t behind = code.nop();
    code.add({0x06});
    code.nop(); // not known to be reached
    EXPECT_EQ(code.lost(kAlways8), (Ranges{{behind, behind + 1}}));
}

TEST(LostSp, RowsAtTheirLimits) {
    Code code;
    code.push();
    code.switch_stacks();
    code.push();
    code.nop();
    for (const int32_t offset : {INT32_MIN, INT32_MIN + 1, INT32_MIN + 2, -1, INT32_MAX, INT32_MAX - 1}) {
        const Ranges lost = code.lost({{0, true, offset}});
        ASSERT_FALSE(lost.empty()) << offset;
        EXPECT_EQ(lost.back().second, code.size()) << offset;
    }
    EXPECT_EQ(code.lost({}), Ranges{});
    EXPECT_EQ(code.lost({{0, false, 0}}), Ranges{});
    EXPECT_EQ(Code().lost(kAlways8), Ranges{});
}

TEST(LostSp, ReplacementsAreFoundWhereverTheyBegin) {
    const std::vector<std::vector<uint8_t>> all = {
        {0x48, 0x8b, 0x66, 0x38}, {0x49, 0x8b, 0x23},       {0x48, 0x89, 0xf4}, {0x4c, 0x89, 0xcc},
        {0x48, 0x83, 0xe4, 0xf0}, {0x40, 0x80, 0xe4, 0xf0}, {0x48, 0x94},       {0x48, 0x29, 0xc4},
        {0x48, 0x87, 0xe0},       {0x48, 0x8d, 0x65, 0xf8}, {0x48, 0x03, 0x20}, {0x48, 0x81, 0xe4, 0, 0xff, 0xff, 0xff},
    };
    for (const auto &instruction : all)
        for (size_t at = 0; at < 200; ++at) {
            std::vector<uint8_t> code(at, 0x90);
            code.insert(code.end(), instruction.begin(), instruction.end());
            ASSERT_EQ(find_sp_replacement(code, 0), at) << ::testing::PrintToString(instruction);
            ASSERT_EQ(find_sp_replacement(code, at + 1), code.size());
            code.insert(code.end(), 100, 0x90);
            ASSERT_EQ(find_sp_replacement(code, 0), at);
            ASSERT_EQ(find_sp_replacement(code, at + 1), code.size());
        }
    EXPECT_EQ(find_sp_replacement({}, 0), 0u);
}

// Any bytes and any rows: ranges ascend, lie in the code, and never touch rows by another register.
TEST(LostSp, RandomCodeGivesOrderedRangesWithinIt) {
    std::mt19937_64 random(5);
    for (int round = 0; round < 20'000; ++round) {
        std::vector<uint8_t> code(random() % 64);
        for (uint8_t &byte : code)
            byte = static_cast<uint8_t>(random());
        Rows rows;
        for (uint32_t start = 0; start < 64; start += 1 + static_cast<uint32_t>(random() % 32))
            rows.push_back({start, random() % 4 != 0, static_cast<int32_t>(random())});
        std::vector<CodeRange> lost;
        find_lost_sp(code, rows, lost);
        uint32_t last = 0;
        for (const CodeRange &range : lost) {
            ASSERT_TRUE(range.start >= last && range.start < range.end && range.end <= code.size());
            last = range.end;
            const auto row = std::ranges::find_if(rows.rbegin(), rows.rend(),
                                                  [&](const SpRow &r) { return r.start <= range.start; });
            ASSERT_TRUE(row->from_sp);
        }
    }
}

} // namespace
} // namespace dwunw::arch::x86_64
