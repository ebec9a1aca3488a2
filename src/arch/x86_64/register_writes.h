// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The general registers that one instruction writes. Register numbers are those of instructions (Encoding).
#pragma once

#include "arch/x86_64/encoding.h"

#include <cstdint>
#include <optional>

namespace dwunw::arch::x86_64 {

inline constexpr uint8_t kEncodedSp = 4;
inline constexpr uint8_t kEncodedFp = 5;

struct RegisterWrites {
    uint16_t registers = 0; // bit n: register n, or a part of it
    // Not one register more is written, and the instruction calls nothing. Of SP, pushes, pops and returns do not say
    // that they write it. False: an operand's write is among `registers`, but there may be others.
    bool complete = false;
    bool has(uint8_t reg) const { return (registers >> reg & 1) != 0; }
};
RegisterWrites register_writes(const Encoding &instruction);

// to = from + constant, in all 64 bits. Not all instructions with such an effect are known: mov between registers, add
// and sub of an immediate, lea of a base and a displacement.
struct RegisterSum {
    uint8_t to;
    uint8_t from;
    int64_t constant;
};
std::optional<RegisterSum> register_sum(const Encoding &instruction);

} // namespace dwunw::arch::x86_64
