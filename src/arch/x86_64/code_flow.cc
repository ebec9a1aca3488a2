// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The instructions around a clone system call. Parent and child return from it at the same pc with different stacks. So
// glibc ends the CFI before the `syscall`, and begins it again after the branch that separates the two:
//
//     syscall                 rax: the child's tid, an error, or 0 in the child
//     test %rax, %rax
//     jl   error              CFI again: the parent's stack
//     je   thread_start       CFI again: an undefined return address
//     ret                     the parent
//
// A thread that was stopped in between continues as its rax says; this is certain. Only these instructions are known.
// None of them changes SP or a register that CFI may use. A branch is followed only if the `test` is before it.
//
// Proved by tests/unit/arch_x86_64_code_flow_test, for example on libc's own clone and clone3.
#include "arch/x86_64/arch.h"

#include <sys/syscall.h>

#include <algorithm>
#include <array>

namespace dwunw::arch::x86_64 {
namespace {

constexpr std::array<uint8_t, 2> kSyscall = {0x0f, 0x05};
constexpr std::array<uint8_t, 3> kTestRaxRax = {0x48, 0x85, 0xc0};
constexpr uint8_t kJe = 0x74; // with a signed byte of distance
constexpr uint8_t kJl = 0x7c;
constexpr uint8_t kRet = 0xc3;
constexpr size_t kBranchSize = 2;

bool stands_at(std::span<const uint8_t> code, size_t at, std::span<const uint8_t> instruction) {
    return at <= code.size() && code.size() - at >= instruction.size() &&
           std::ranges::equal(code.subspan(at, instruction.size()), instruction);
}

bool is_branch(std::span<const uint8_t> code, size_t at, uint8_t opcode) {
    return at <= code.size() && code.size() - at >= kBranchSize && code[at] == opcode;
}

// Whether the flags at `at` come from rax: a `test` ends there, and only a `jl` may be between.
bool flags_are_raxs(std::span<const uint8_t> code, size_t at) {
    const auto test_ends_at = [&](size_t end) {
        return end >= kTestRaxRax.size() && stands_at(code, end - kTestRaxRax.size(), kTestRaxRax);
    };
    return test_ends_at(at) ||
           (at >= kBranchSize && is_branch(code, at - kBranchSize, kJl) && test_ends_at(at - kBranchSize));
}

} // namespace

CodeFlow follow(std::span<const uint8_t> code, size_t pc, std::optional<uint64_t> rax) {
    // A thread that is still before the call will be the parent. If the call fails, the stack is the same.
    bool before_call = false;
    int64_t at = static_cast<int64_t>(pc);
    for (size_t steps = 0; steps < code.size() && at >= 0; ++steps) {
        const auto here = static_cast<size_t>(at);
        if (stands_at(code, here, kSyscall)) {
            if (before_call || !rax || (*rax != SYS_clone && *rax != SYS_clone3))
                return {};
            before_call = true;
            at += kSyscall.size();
        } else if (stands_at(code, here, kTestRaxRax)) {
            at += kTestRaxRax.size();
        } else if ((is_branch(code, here, kJe) || is_branch(code, here, kJl)) && rax && flags_are_raxs(code, here)) {
            const bool taken = !before_call && (code[here] == kJe ? *rax == 0 : static_cast<int64_t>(*rax) < 0);
            at += static_cast<int64_t>(kBranchSize) + (taken ? static_cast<int8_t>(code[here + 1]) : 0);
        } else if (here < code.size() && code[here] == kRet) {
            return {CodeFlow::Kind::kReturns};
        } else {
            break;
        }
    }
    const int64_t offset = at - static_cast<int64_t>(pc);
    if (offset != 0)
        return {CodeFlow::Kind::kGoesOn, offset};
    const bool other_code = pc < code.size() && code[pc] != kSyscall[0] && code[pc] != kJe && code[pc] != kJl;
    return {CodeFlow::Kind::kUnknown, 0, other_code};
}

} // namespace dwunw::arch::x86_64
