// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// x86-64 (System V psABI, AMD64 Architecture Processor Supplement).
#pragma once

#include "arch/arch.h"
#include "arch/x86_64/registers.h"

#include <array>

namespace dwunw::arch::x86_64 {

// The register numbers that instructions use, by DWARF number, and the reverse.
inline constexpr std::array<uint8_t, 16> kEncoded = {0, 2, 1, 3, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15};
inline constexpr std::array<uint8_t, 16> kDecoded = {kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi,
                                                     kR8,  kR9,  kR10, kR11, kR12, kR13, kR14, kR15};

extern const Arch kArch;

// Whether code that ends at a return address can end in a near call (Intel SDM volume 2, CALL: E8 and FF /2; prefixes
// come before these and are ignored). Other bytes can look like a call.
bool ends_in_call(std::span<const uint8_t> code);
std::optional<int64_t> direct_call(std::span<const uint8_t> code);

// frame_begins.cc
std::optional<size_t> frame_begins(std::span<const uint8_t> code, size_t end);

size_t call_targets(std::span<const uint8_t> code, std::span<CodeTarget, kMaxCallTargets> out);
bool is_jump_stub(std::span<const uint8_t> code, CodeTarget &target, size_t &length);

// register_writes.cc. `entered_at`: offsets at which instructions are known to begin.
bool leaves_alone(std::span<const uint8_t> code, uint8_t reg, std::span<const size_t> entered_at);

// code_flow.cc
CodeFlow follow(std::span<const uint8_t> code, size_t pc, std::optional<uint64_t> rax);

// Arch::find_sp_replacement and Arch::find_lost_sp.
size_t find_sp_replacement(std::span<const uint8_t> code, size_t from);
void find_lost_sp(std::span<const uint8_t> code, std::span<const SpRow> rows, std::vector<CodeRange> &lost);
// instruction.cc
std::optional<Instruction> decode(std::span<const uint8_t> code);
inline constexpr size_t kMaxInstructionLength = 15; // Intel SDM volume 2 §2.3.11

} // namespace dwunw::arch::x86_64
