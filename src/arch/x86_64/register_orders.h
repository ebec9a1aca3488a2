// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The orders in which Linux and its C libraries hand over the registers of x86-64, as DWARF numbers. kNone: a register
// that has no number here.
#pragma once

#include "arch/x86_64/registers.h"

#include <array>
#include <cstddef>

namespace dwunw::arch::x86_64 {

inline constexpr uint8_t kNone = 0xff;

// struct pt_regs. NT_PRSTATUS begins with the same. orig_rax, cs, eflags and ss have no number here.
inline constexpr std::array<uint8_t, 21> kPtRegs = {kR15, kR14, kR13, kR12, kRbp,  kRbx, kR11,  kR10,  kR9,  kR8,  kRax,
                                                    kRcx, kRdx, kRsi, kRdi, kNone, kRip, kNone, kNone, kRsp, kNone};

// enum perf_event_x86_regs of <asm/perf_regs.h>, up to the vector registers: ax bx cx dx si di bp sp ip flags cs ss ds
// es fs gs r8…r15.
inline constexpr std::array<uint8_t, 24> kPerfRegs = {
    kRax,  kRbx,  kRcx,  kRdx,  kRsi, kRdi, kRbp, kRsp, kRip, kNone, kNone, kNone,
    kNone, kNone, kNone, kNone, kR8,  kR9,  kR10, kR11, kR12, kR13,  kR14,  kR15,
};

// struct sigcontext_64 of <asm/sigcontext.h>, which is `gregs` of the C libraries' ucontext_t: r8…r15 di si bp bx dx ax
// cx sp ip.
inline constexpr std::array<uint8_t, 17> kSignalRegs = {
    kR8, kR9, kR10, kR11, kR12, kR13, kR14, kR15, kRdi, kRsi, kRbp, kRbx, kRdx, kRax, kRcx, kRsp, kRip,
};
// Where they begin: behind uc_flags, uc_link and uc_stack.
inline constexpr size_t kSignalRegsOffset = 40;

// What a call leaves as it was (psABI figure 3.4), and where it returns to: all that getcontext's caller has again.
inline constexpr std::array<uint8_t, 8> kKeptByCalls = {kRbx, kRbp, kRsp, kR12, kR13, kR14, kR15, kRip};

} // namespace dwunw::arch::x86_64
