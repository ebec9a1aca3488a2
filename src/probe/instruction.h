// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One x86-64 instruction, as far as the placement of probes asks: decoded by Zydis, judged here.
//
// Zydis and not Capstone (both are in Debian 12): it names every operand, implicit ones too, with what is done to it,
// where Capstone 4 lists explicit writes and leaves gaps; it keeps no state and allocates nothing, so any thread may
// decode; and it rejects what no processor decodes.
#pragma once

#include "base/address.h"

#include <Zydis/Zydis.h>

#include <optional>
#include <span>
#include <string>

namespace dwunw::probe {

constexpr uint32_t kernel_version(uint32_t major, uint32_t minor) { return major << 16 | minor << 8; }

class Instruction {
  public:
    // The instruction at `code`'s first byte, which lies at `address`; empty where there is none.
    static std::optional<Instruction> decode(std::span<const uint8_t> code, LinkAddr address);

    size_t length() const { return decoded_.length; }
    LinkAddr address() const { return address_; }

    // Whether a uprobe on it is emulated (arch/x86/kernel/uprobes.c: branch_setup_xol_ops, push_setup_xol_ops).
    bool is_emulated(uint32_t kernel) const;

    // Where it may go besides the next instruction: a direct branch's or call's target, the abort handler of xbegin.
    std::optional<LinkAddr> branch_target() const;
    // A jump whose target is in a register or in memory. (A call returns; where to is what counts, and that is next.)
    bool is_indirect_jump() const;
    bool is_jump() const; // conditional ones, too
    bool is_call() const;
    bool is_return() const;
    bool is_landing_mark() const; // endbr64
    // Whether the next instruction may come after it. A call is taken to return.
    bool goes_on() const;
    // Of memory at a rip-relative address without an index: an indirect jump's slot, a read's operand.
    struct FixedMemory {
        LinkAddr address;
        uint64_t size;
    };
    std::optional<FixedMemory> fixed_memory() const;

    // Why a probe may not be moved past it; empty if it may.
    struct Rights {
        unsigned kept_arguments;                     // the first so many argument registers must stay
        bool (*may_read)(const void *, FixedMemory); // nullptr: no memory at all
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

} // namespace dwunw::probe
