// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Finds where a function with a frame pointer may begin:
//
//     push %rbp                        compilers may put a few instructions in between
//     mov %rsp, %rbp                   in either encoding
//   or, in Go before 1.21:
//     mov %rbp, n(%rsp)
//     lea n(%rsp), %rbp
//
// The search compares bytes, backwards, where no decoder can work. So other code may look the same; the caller follows
// the code from there. The frame of a function that has realigned its stack does not count: GCC copies the return
// address there (push -8(%r10); push %rbp), and the CFA is elsewhere.
//
// Proved by tests/unit/arch_x86_64_frame_begins_test.
#include "arch/x86_64/arch.h"

#include <algorithm>
#include <array>

namespace dwunw::arch::x86_64 {
namespace {

constexpr uint8_t kPushRbp = 0x55;
constexpr uint8_t kRexW = 0x48;
constexpr size_t kMovBytes = 3;
// Between the two: GCC schedules the function's first few instructions there.
constexpr size_t kScheduled = 32;
constexpr std::array<uint8_t, 4> kPushReturnAddress = {0x41, 0xff, 0x72, 0xf8};

bool is_mov(std::span<const uint8_t> code) {
    return code.size() >= kMovBytes && ((code[1] == 0x89 && code[2] == 0xe5) || (code[1] == 0x8b && code[2] == 0xec));
}

// mov %rbp, n(%rsp); lea n(%rsp), %rbp, where n is one byte or four.
bool begins_in_go(std::span<const uint8_t> code) {
    for (const auto &[mod_rm, offset_size] :
         {std::pair(uint8_t{0x6c}, size_t{1}), std::pair(uint8_t{0xac}, size_t{4})}) {
        const size_t length = 4 + offset_size;
        if (code.size() < 2 * length)
            continue;
        const auto mov = code.first(length);
        const auto lea = code.subspan(length, length);
        if (mov[1] == 0x89 && lea[0] == kRexW && lea[1] == 0x8d && mov[2] == mod_rm && mov[3] == 0x24 &&
            std::ranges::equal(mov.subspan(2), lea.subspan(2)))
            return true;
    }
    return false;
}

// The nearest `push %rbp` before a `mov %rsp, %rbp`. A REX prefix would make it another register's.
std::optional<size_t> push_before(std::span<const uint8_t> code, size_t mov) {
    for (size_t at = mov; at-- > mov - std::min(mov, kScheduled);) {
        if (code[at] != kPushRbp || (at > 0 && (code[at - 1] & 0xf0) == 0x40))
            continue;
        const bool realigned =
            at >= kPushReturnAddress.size() &&
            std::ranges::equal(code.subspan(at - kPushReturnAddress.size(), kPushReturnAddress.size()),
                               kPushReturnAddress);
        return realigned ? std::nullopt : std::optional(at);
    }
    return std::nullopt;
}

} // namespace

std::optional<size_t> frame_begins(std::span<const uint8_t> code, size_t end) {
    const auto before = code.first(std::min(end, code.size()));
    for (size_t at = before.size(); at-- > 0;) {
        if (before[at] != kRexW) // all Go forms begin with it
            continue;
        if (is_mov(before.subspan(at)))
            if (const auto push = push_before(before, at))
                return push;
        if (begins_in_go(before.subspan(at)))
            return at;
    }
    return std::nullopt;
}

} // namespace dwunw::arch::x86_64
