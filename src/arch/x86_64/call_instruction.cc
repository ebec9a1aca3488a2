// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "arch/x86_64/arch.h"

#include <algorithm>
#include <cstring>

namespace dwunw::arch::x86_64 {
namespace {

// ModRM of FF /2 (call near, absolute indirect): mod and rm give the operand's length.
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

int32_t displacement_at(std::span<const uint8_t> code, size_t at) {
    int32_t value = 0;
    std::memcpy(&value, code.data() + at, sizeof(value));
    return value;
}

// The operand of FF, from the ModRM byte on. `rex` 0: no REX prefix.
CodeTarget operand(std::span<const uint8_t> mod_rm_on, uint8_t rex) {
    CodeTarget target;
    const unsigned mod = mod_rm_on[0] >> 6;
    const unsigned rm = mod_rm_on[0] & 7u;
    const unsigned extended = (rex & 1u) << 3;
    if (mod == 3) {
        target.kind = CodeTarget::Kind::kRegister;
        target.base = kDecoded[rm | extended];
        return target;
    }
    target.kind = CodeTarget::Kind::kMemory;
    size_t at = 1;
    bool has_base = true;
    if (rm == 4) {
        const uint8_t sib = mod_rm_on[at++];
        const unsigned index = (sib >> 3 & 7u) | (rex & 2u) << 2;
        if (index != 4) {
            target.index = kDecoded[index];
            target.scale = static_cast<uint8_t>(1u << (sib >> 6));
        }
        has_base = mod != 0 || (sib & 7) != 5;
        if (has_base)
            target.base = kDecoded[(sib & 7u) | extended];
    } else if (mod == 0 && rm == 5) {
        has_base = false;
        target.from_end = true;
    } else {
        target.base = kDecoded[rm | extended];
    }
    if (mod == 1)
        target.displacement = int{static_cast<int8_t>(mod_rm_on[at])};
    else if (mod == 2 || !has_base)
        target.displacement = displacement_at(mod_rm_on, at);
    return target;
}

bool is_segment(uint8_t byte) { return byte == 0x64 || byte == 0x65; } // fs, gs

} // namespace

size_t call_targets(std::span<const uint8_t> code, std::span<CodeTarget, kMaxCallTargets> out) {
    size_t count = 0;
    const auto add = [&](const CodeTarget &target) {
        if (count < out.size())
            out[count++] = target;
    };
    if (code.size() >= 5 && code[code.size() - 5] == 0xe8) {
        CodeTarget direct;
        direct.kind = CodeTarget::Kind::kAddress;
        direct.displacement = displacement_at(code, code.size() - 4);
        add(direct);
    }
    for (size_t length = 2; length <= 7; ++length) {
        if (!is_indirect_call(code, length))
            continue;
        const auto mod_rm_on = code.last(length - 1);
        const auto before = [&](size_t bytes) {
            return code.size() >= length + bytes ? code[code.size() - length - bytes] : uint8_t{0};
        };
        // The byte before may be a prefix, or belong to another instruction.
        add(is_segment(before(1)) ? CodeTarget{} : operand(mod_rm_on, 0));
        if ((before(1) & 0xf0) == 0x40)
            add(is_segment(before(2)) ? CodeTarget{} : operand(mod_rm_on, before(1)));
    }
    return count;
}

// endbr64; bnd jmp *displacement(%rip). Both endbr64 and bnd are optional.
bool is_jump_stub(std::span<const uint8_t> code, CodeTarget &target, size_t &length) {
    constexpr std::array<uint8_t, 4> kEndbr64 = {0xf3, 0x0f, 0x1e, 0xfa};
    size_t at = 0;
    if (code.size() >= kEndbr64.size() && std::ranges::equal(code.first(kEndbr64.size()), kEndbr64))
        at += kEndbr64.size();
    if (at < code.size() && code[at] == 0xf2)
        ++at;
    if (code.size() < at + 6 || code[at] != 0xff || code[at + 1] != 0x25)
        return false;
    target = {};
    target.kind = CodeTarget::Kind::kMemory;
    target.from_end = true;
    target.displacement = displacement_at(code, at + 2);
    length = at + 6;
    return true;
}

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
