// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Whether the code before a pc shows that its function has set up a frame pointer:
//
//     push %rbp; mov %rsp, %rbp        the beginning, in either encoding
//     …                                nothing that gives rbp back and leaves: pop %rbp or leave, then ret or a jump;
//     pc                               no padding of int3
//
// Instructions are not decoded, bytes are compared: a byte that only looks like the end of a frame makes the answer no,
// which costs a frame; that four bytes of something else look like its beginning is out of the question.
//
// Proved by tests/unit/arch_x86_64_frame_set_up_test.
#include "arch/x86_64/arch.h"

#include <algorithm>
#include <array>

namespace dwunw::arch::x86_64 {
namespace {

constexpr std::array<uint8_t, 4> kBegin = {0x55, 0x48, 0x89, 0xe5};
constexpr std::array<uint8_t, 4> kBeginOtherwise = {0x55, 0x48, 0x8b, 0xec};

bool begins(std::span<const uint8_t> code, size_t at) {
    const auto bytes = code.subspan(at).first(kBegin.size());
    return std::ranges::equal(bytes, kBegin) || std::ranges::equal(bytes, kBeginOtherwise);
}

bool gives_back(uint8_t byte) { return byte == 0x5d || byte == 0xc9; } // pop %rbp, leave
bool leaves(uint8_t byte) {
    // ret, ret imm16, jmp rel32, jmp rel8, jmp r/m64, a prefix of that
    return byte == 0xc3 || byte == 0xc2 || byte == 0xe9 || byte == 0xeb || byte == 0xff || byte == 0x41;
}

} // namespace

bool frame_is_set_up(std::span<const uint8_t> code, size_t pc) {
    if (pc >= code.size())
        return false;
    for (size_t at = pc; at-- > 0;) {
        if (at + kBegin.size() <= pc && begins(code, at))
            return true;
        if ((gives_back(code[at]) && leaves(code[at + 1])) || (code[at] == 0xcc && code[at + 1] == 0xcc))
            return false;
    }
    return false;
}

} // namespace dwunw::arch::x86_64
