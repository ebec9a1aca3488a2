// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "arch/x86_64/arch.h"

namespace dwunw::arch::x86_64 {
namespace {

// ModRM of FF /2 (call near, absolute indirect): mod and rm say how long the operand is.
bool is_indirect_call(std::span<const uint8_t> code, size_t length) {
    if (code.size() < length)
        return false;
    const auto bytes = code.last(length);
    if (bytes[0] != 0xff)
        return false;
    const uint8_t modrm = bytes[1];
    if ((modrm & 0x38) != 0x10)
        return false;
    const unsigned mod = modrm >> 6;
    const unsigned rm = modrm & 7;
    if (mod == 3)
        return length == 2; // call *%reg
    const bool has_sib = rm == 4;
    size_t expected = 2u + (has_sib ? 1 : 0);
    if (mod == 1)
        expected += 1;
    else if (mod == 2 || (mod == 0 && rm == 5)) // disp32; mod 0 rm 5 is rip-relative
        expected += 4;
    else if (mod == 0 && has_sib && length > 2 && (bytes[2] & 7) == 5) // SIB without a base: disp32
        expected += 4;
    return length == expected;
}

} // namespace

bool ends_in_call(std::span<const uint8_t> code) {
    // call rel32
    if (code.size() >= 5 && code[code.size() - 5] == 0xe8)
        return true;
    for (size_t length = 2; length <= 7; ++length)
        if (is_indirect_call(code, length))
            return true;
    return false;
}

std::optional<int64_t> direct_call(std::span<const uint8_t> code) {
    constexpr size_t kLength = 5;
    if (code.size() < kLength || code[code.size() - kLength] != 0xe8)
        return std::nullopt;
    uint32_t distance = 0;
    for (size_t i = 0; i < 4; ++i)
        distance |= static_cast<uint32_t>(code[code.size() - 4 + i]) << (8 * i);
    return static_cast<int32_t>(distance);
}

} // namespace dwunw::arch::x86_64
