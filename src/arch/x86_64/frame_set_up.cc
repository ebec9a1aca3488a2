// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whether the code before a pc shows that its function has set up a frame pointer:
//
//     push %rbp                        the beginning; compilers may put a few instructions in between
//     mov %rsp, %rbp                   in either encoding
//   or, as Go did it before 1.21:
//     mov %rbp, n(%rsp)
//     lea n(%rsp), %rbp
//     …                                nothing that gives rbp back and leaves: pop %rbp or leave, then ret or a jump;
//     pc                               no padding of int3
//
// A function in the middle of a call is not at its end, so for that one an end in between is another path's: V8's
// bytecode handlers leave early and make their calls behind that.
//
// Instructions are not decoded, bytes are compared: a byte that only looks like the end of a frame makes the answer no,
// which costs a frame. That three bytes of something else, a push before them, look like its beginning is unlikely, and
// the answer is asked for only where a stack has already passed the checks of a frame-pointer step.
//
// Proved by tests/unit/arch_x86_64_frame_set_up_test.
#include "arch/x86_64/arch.h"

#include <algorithm>
#include <array>
#include <utility>

namespace dwunw::arch::x86_64 {
namespace {

constexpr uint8_t kPushRbp = 0x55;
constexpr uint8_t kRexW = 0x48;
constexpr uint8_t kInt3 = 0xcc;
constexpr size_t kMovRspRbpBytes = 3;
// Between the two: GCC schedules the function's first few instructions there.
constexpr size_t kScheduled = kFrameSetUpContext;

// These look at bytes that begin with kRexW.
//
// mov %rbp, n(%rsp); lea n(%rsp), %rbp: what Go's functions begin with, n being one byte or four.
bool begins_in_go(std::span<const uint8_t> code) {
    if (code.size() < 2 || code[1] != 0x89)
        return false;
    constexpr std::array<uint8_t, 2> kModRmSib = {0x6c, 0x24};     // n of one byte
    constexpr std::array<uint8_t, 2> kModRmSibLong = {0xac, 0x24}; // and of four
    for (const auto &[mod_rm_sib, offset_size] :
         {std::pair(kModRmSib, size_t{1}), std::pair(kModRmSibLong, size_t{4})}) {
        const size_t length = 4 + offset_size;
        if (code.size() < 2 * length)
            continue;
        const auto mov = code.first(length);
        const auto lea = code.subspan(length, length);
        if (lea[0] == kRexW && lea[1] == 0x8d && std::ranges::equal(mov.subspan(2, 2), mod_rm_sib) &&
            std::ranges::equal(mov.subspan(2), lea.subspan(2)))
            return true;
    }
    return false;
}

bool begins(std::span<const uint8_t> code, size_t mov) {
    const bool is_mov = (code[mov + 1] == 0x89 && code[mov + 2] == 0xe5) || // in either encoding
                        (code[mov + 1] == 0x8b && code[mov + 2] == 0xec);
    if (!is_mov)
        return false;
    const size_t searched = std::min(mov, kScheduled);
    return std::ranges::count(code.subspan(mov - searched, searched), kPushRbp) > 0;
}

// mov n(%rsp), %rbp: how Go gives it back.
bool gives_back_in_go(std::span<const uint8_t> code) {
    return code.size() >= 4 && code[1] == 0x8b && (code[2] == 0x6c || code[2] == 0xac) && code[3] == 0x24;
}

bool gives_back(uint8_t byte) { return byte == 0x5d || byte == 0xc9; } // pop %rbp, leave
bool leaves(uint8_t byte) {
    // ret, ret imm16, jmp rel32, jmp rel8, jmp r/m64, a prefix of that
    return byte == 0xc3 || byte == 0xc2 || byte == 0xe9 || byte == 0xeb || byte == 0xff || byte == 0x41;
}

} // namespace

std::optional<bool> frame_set_up(std::span<const uint8_t> code, size_t pc, bool in_call, size_t context) {
    if (pc >= code.size())
        return false;
    for (size_t at = pc; at-- > context;) {
        const uint8_t byte = code[at];
        if (byte == kRexW) { // all that have one begin with it
            const bool begun =
                (at + kMovRspRbpBytes <= pc && begins(code, at)) || begins_in_go(code.subspan(at, pc - at));
            if (begun)
                return true;
            if (!in_call && gives_back_in_go(code.subspan(at)))
                return false;
        } else if (!in_call &&
                   ((gives_back(byte) && leaves(code[at + 1])) || (byte == kInt3 && code[at + 1] == kInt3))) {
            return false;
        }
    }
    return std::nullopt;
}

} // namespace dwunw::arch::x86_64
