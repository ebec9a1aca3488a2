// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The registers of x86-64, and what the core must know of them when it is compiled.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dwunw::arch::x86_64 {

// DWARF register numbers, psABI figure 3.36.
enum Register : uint8_t {
    kRax = 0,
    kRdx = 1,
    kRcx = 2,
    kRbx = 3,
    kRsi = 4,
    kRdi = 5,
    kRbp = 6,
    kRsp = 7,
    kR8 = 8,
    kR9 = 9,
    kR10 = 10,
    kR11 = 11,
    kR12 = 12,
    kR13 = 13,
    kR14 = 14,
    kR15 = 15,
    kRip = 16, // "RA"
};

// The registers whose rules are kept. A rule of another register (vector registers, flags) is parsed and dropped: no
// CFA depends on one.
inline constexpr size_t kRegisterCount = 17;
inline constexpr uint8_t kStackPointer = kRsp;
inline constexpr uint8_t kFramePointer = kRbp;
// The CIE's return address register, and the pc in a register set. They are the same if a call leaves the return
// address in no register.
inline constexpr uint8_t kReturnAddress = kRip;
inline constexpr uint8_t kProgramCounter = kRip;

// The bits of a register's number, except the return address's.
inline constexpr unsigned kRegisterBits = 4;

// The bits of a user address with 4-level paging. With 5-level paging a program can ask for wider ones.
inline constexpr unsigned kAddressBits = 47;

// The distance from the CFA down to the return address, in nearly all rows. `fp_distance` is the distance down to the
// saved frame pointer; 0: it is not saved. Here the call instruction pushes the return address.
constexpr uint64_t return_distance(uint64_t fp_distance) {
    (void)fp_distance;
    return 8;
}

// Whether functions sign return addresses: DW_CFA_AARCH64_negate_ra_state.
inline constexpr bool kSignsReturnAddresses = false;

// The address that a stored return address means: without its signature.
constexpr uint64_t return_address(uint64_t word) { return word; }

} // namespace dwunw::arch::x86_64
