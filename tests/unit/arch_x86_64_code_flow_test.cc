// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests where the code around a clone system call leads: hand-written forms, and this machine's libc.
#include "arch/x86_64/arch.h"

#include "support/cfi_bytes.h"

#include <gtest/gtest.h>

#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>
#include <vector>

namespace dwunw::arch {
namespace {

using testing::Bytes;
using Kind = CodeFlow::Kind;

constexpr uint64_t kError = ~uint64_t{0};

// glibc's, with a thread_start of its own.
const Bytes kClone = {0x0f, 0x05,             //  0 syscall
                      0x48, 0x85, 0xc0,       //  2 test %rax, %rax
                      0x7c, 0x13,             //  5 jl 26
                      0x74, 0x01,             //  7 je 10
                      0xc3,                   //  9 ret
                      0x31, 0xed, 0x58, 0x5f, // 10 thread_start
                      0xff, 0xd0};

CodeFlow follow(const Bytes &code, size_t pc, std::optional<uint64_t> rax) {
    return x86_64::kArch.follow(code.data(), pc, rax);
}

void expect_goes_to(size_t to, const Bytes &code, size_t pc, std::optional<uint64_t> rax) {
    const CodeFlow flow = follow(code, pc, rax);
    EXPECT_EQ(flow.kind, Kind::kGoesOn) << pc;
    EXPECT_EQ(flow.offset, static_cast<int64_t>(to) - static_cast<int64_t>(pc)) << pc;
}

TEST(CodeFlow, TheChildGoesToItsStart) {
    for (const size_t pc : {2, 5, 7})
        expect_goes_to(10, kClone, pc, 0);
}

TEST(CodeFlow, TheParentReturns) {
    for (const size_t pc : {2, 5, 7, 9})
        EXPECT_EQ(follow(kClone, pc, 4711).kind, Kind::kReturns) << pc;
    // Before the call the number is in the register.
    EXPECT_EQ(follow(kClone, 0, SYS_clone).kind, Kind::kReturns);
    EXPECT_EQ(follow(kClone, 0, SYS_clone3).kind, Kind::kReturns);
    EXPECT_EQ(follow(kClone, 9, std::nullopt).kind, Kind::kReturns);
}

TEST(CodeFlow, AnErrorGoesWhereErrorsGo) {
    for (const size_t pc : {2, 5})
        expect_goes_to(26, kClone, pc, kError);
    // Behind the jl the flags that took it cannot be.
    EXPECT_EQ(follow(kClone, 7, kError).kind, Kind::kReturns);
}

TEST(CodeFlow, FollowsOnlyCertainCode) {
    // Other system calls may not come back, or not here.
    for (const uint64_t rax : {uint64_t{SYS_rt_sigreturn}, uint64_t{SYS_vfork}, uint64_t{0}, kError})
        EXPECT_EQ(follow(kClone, 0, rax).kind, Kind::kUnknown) << rax;
    EXPECT_EQ(follow(kClone, 0, std::nullopt).kind, Kind::kUnknown);
    EXPECT_EQ(follow({0x0f, 0x05, 0x0f, 0x05, 0xc3}, 0, SYS_clone).kind, Kind::kUnknown);
    // A branch on a register that is not known stays where it is.
    expect_goes_to(5, kClone, 2, std::nullopt);
    // A branch on flags of another instruction.
    for (const Bytes &code : {Bytes{0x48, 0x85, 0xc1, 0x74, 0x01, 0xc3}, Bytes{0x90, 0x90, 0x90, 0x7c, 0x01, 0xc3}})
        EXPECT_EQ(follow(code, 3, 0).kind, Kind::kUnknown);
    EXPECT_EQ(follow({0x90, 0x90, 0x90, 0x7c, 0x05, 0x74, 0x01, 0xc3}, 5, 0).kind, Kind::kUnknown);
    // Without the bytes before it, the source of the flags is unknown.
    EXPECT_EQ(follow({0x74, 0x01, 0xc3}, 0, 0).kind, Kind::kUnknown);
    EXPECT_EQ(follow({0x90, 0xc3}, 0, 0).kind, Kind::kUnknown);
}

TEST(CodeFlow, OtherCodeIsNotFollowedForAnyRax) {
    EXPECT_TRUE(follow({0x90, 0xc3}, 0, 0).always);
    for (const Bytes &code : {Bytes({0x0f, 0x05}), Bytes({0x74, 0x01, 0xc3}), Bytes({0x7c, 0x01, 0xc3})})
        EXPECT_FALSE(follow(code, 0, std::nullopt).always);
    EXPECT_FALSE(follow({}, 3, 0).always);
}

TEST(CodeFlow, CutCodeNeverReturnsOtherwise) {
    for (size_t size = 0; size <= kClone.size(); ++size)
        for (size_t pc = 0; pc <= size; ++pc)
            for (const uint64_t rax : {uint64_t{0}, uint64_t{1}, uint64_t{SYS_clone}, kError}) {
                const CodeFlow cut = x86_64::kArch.follow(std::span(kClone.data()).first(size), pc, rax);
                if (cut.kind == Kind::kReturns) {
                    EXPECT_EQ(follow(kClone, pc, rax).kind, Kind::kReturns);
                }
            }
    EXPECT_EQ(follow({}, 3, 0).kind, Kind::kUnknown);
}

TEST(CodeFlow, ALoopEnds) {
    expect_goes_to(0, {0x48, 0x85, 0xc0, 0x74, 0xfb}, 3, 0);
    const CodeFlow before = follow({0x90, 0x48, 0x85, 0xc0, 0x74, 0x80}, 1, 0);
    EXPECT_EQ(before.kind, Kind::kGoesOn);
    EXPECT_LT(before.offset, -100);
}

TEST(CodeFlow, ThisLibcsClone) {
    const auto *code = reinterpret_cast<const uint8_t *>(&clone);
    const auto body = std::span(code, 80);
    const std::vector<uint8_t> syscall = {0x0f, 0x05};
    const auto at = static_cast<size_t>(std::ranges::search(body, syscall).begin() - body.begin());
    ASSERT_LT(at, body.size());
    EXPECT_EQ(x86_64::kArch.follow(body, at, SYS_clone).kind, Kind::kReturns);
    EXPECT_EQ(x86_64::kArch.follow(body, at + 2, 4711).kind, Kind::kReturns);
    const CodeFlow child = x86_64::kArch.follow(body, at + 2, 0);
    ASSERT_EQ(child.kind, Kind::kGoesOn);
    // xor %ebp, %ebp: the psABI's mark of the outermost frame.
    const size_t start = at + 2 + static_cast<size_t>(child.offset);
    ASSERT_LT(start + 1, body.size());
    EXPECT_EQ(body[start], 0x31);
    EXPECT_EQ(body[start + 1], 0xed);
}

} // namespace
} // namespace dwunw::arch
