// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One x86-64 instruction for the placement of probes: Zydis decodes it, this class judges it.
//
// Zydis, not Capstone (Debian 12 has both). Zydis names every operand, also implicit ones, and how each is used;
// Capstone 4 lists explicit writes and has gaps. Zydis keeps no state and allocates nothing, so any thread may decode.
// And it rejects bytes that no processor decodes.
#pragma once

#include "base/address.h"
#include "base/kernel_version.h"

#include <Zydis/Zydis.h>

#include <optional>
#include <span>
#include <string>

namespace dwunw::arch::x86_64 {

class ProbedInstruction {
  public:
    // The instruction at the first byte of `code`, which lies at `address`; nullopt: there is none.
    static std::optional<ProbedInstruction> decode(std::span<const uint8_t> code, LinkAddr address);

    size_t length() const { return decoded_.length; }
    LinkAddr address() const { return address_; }

    // Whether the kernel emulates it under a uprobe (arch/x86/kernel/uprobes.c: branch_setup_xol_ops,
    // push_setup_xol_ops).
    bool is_emulated(uint32_t kernel) const;

    // 0f 1f 44 00 00, which the kernel rewrites into a call (arch/x86/kernel/uprobes.c: is_nop5_insn).
    bool is_five_byte_nop() const;

    // Its target besides the next instruction: of a direct branch or call; the abort handler of xbegin.
    std::optional<LinkAddr> branch_target() const;
    // A jump whose target is in a register or in memory. (A call returns, so its target does not matter.)
    bool is_indirect_jump() const;
    bool is_jump() const; // also conditional ones
    bool is_call() const;
    bool is_return() const;
    bool is_landing_mark() const; // endbr64
    // Whether the next instruction may follow it. A call counts as returning.
    bool goes_on() const;
    // Memory at a rip-relative address without an index: an indirect jump's slot, or a read's operand.
    struct FixedMemory {
        LinkAddr address;
        uint64_t size;
    };
    std::optional<FixedMemory> fixed_memory() const;

    // Why a probe may not move past it; empty: it may.
    struct Rights {
        unsigned kept_arguments; // this many argument registers, from the first, must keep their values
        bool (*may_read)(const void *, FixedMemory); // nullptr: reads no memory
        const void *may_read_context;
    };
    std::string why_kept(const Rights &rights) const;

    std::string mnemonic() const;
    std::string text() const; // in Intel syntax

  private:
    std::span<const ZydisDecodedOperand> operands() const { return {operands_, decoded_.operand_count}; }

    LinkAddr address_;
    ZydisDecodedInstruction decoded_{};
    ZydisDecodedOperand operands_[ZYDIS_MAX_OPERAND_COUNT]{};
};

// Whether two bytes end an opcode with a 32-bit displacement: call, jmp, jcc, xbegin; lea of a rip-relative address.
bool precede_displacement(uint8_t before, uint8_t last);

} // namespace dwunw::arch::x86_64
