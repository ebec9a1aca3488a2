// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What src/arch/x86_64/registers.h has, for r0 … r30, SP and the pc. A call puts the return address into r30. A
// function that calls others saves r29 and r30 side by side, as in AArch64 code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dwunw::arch::made_up {

enum Register : uint8_t {
    kR0 = 0,
    kR19 = 19,
    kR28 = 28,
    kFp = 29,
    kLink = 30,
    kSp = 31,
    kPc = 32,
};

inline constexpr size_t kRegisterCount = 33;
inline constexpr uint8_t kStackPointer = kSp;
inline constexpr uint8_t kFramePointer = kFp;
inline constexpr uint8_t kReturnAddress = kLink;
inline constexpr uint8_t kProgramCounter = kPc;
inline constexpr unsigned kRegisterBits = 5;
inline constexpr unsigned kAddressBits = 48;

// Behind the saved FP. If FP is not saved, no distance is usual.
constexpr uint64_t return_distance(uint64_t fp_distance) { return fp_distance < 16 ? 0 : fp_distance - 8; }

// The signature is in the bits that no user address has.
inline constexpr bool kSignsReturnAddresses = true;
constexpr uint64_t return_address(uint64_t word) { return word & ((uint64_t{1} << kAddressBits) - 1); }

} // namespace dwunw::arch::made_up
