// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A frame's registers by DWARF number. For each register: is its value known, and if not, would it be known if memory
// had been readable? A walk that needs such a register ends with that reason. A register that a call may change, and
// that the step from the inner frame did not mention, is not known; but its value in the inner frame is kept.
#pragma once

#include "arch/selected.h"
#include "dwarf/cfi_program.h"

#include <dwunw/dwunw_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace dwunw::unwind {

class Registers {
  public:
    Registers() : values_{} {}
    // Bit n of `known` is set if values[n] holds a value.
    Registers(std::span<const uint64_t, dwarf::kTrackedRegisters> values, uint64_t known)
        : known_(known & ((uint64_t{1} << dwarf::kTrackedRegisters) - 1)) {
        std::ranges::copy(values, values_.begin());
    }

    bool known(size_t reg) const { return reg < values_.size() && ((known_ >> reg) & 1) != 0; }
    uint64_t operator[](size_t reg) const { return values_[reg]; }
    void set(size_t reg, uint64_t value) {
        values_[reg] = value;
        known_ |= uint64_t{1} << reg;
        unmentioned_ &= ~(uint64_t{1} << reg);
    }
    // For the pc of the outer frame: `word` is the return address as it is stored.
    void set_return_address(uint64_t word) {
        const uint64_t address = arch::selected::return_address(word);
        set(arch::selected::kReturnAddress, address);
        if constexpr (arch::selected::kProgramCounter != arch::selected::kReturnAddress)
            set(arch::selected::kProgramCounter, address);
    }
    // `why`: the reason why its value could not be read; otherwise DWUNW_ERR_REGISTER_UNKNOWN.
    void forget(size_t reg, dwunw_status why = DWUNW_ERR_REGISTER_UNKNOWN) {
        const uint64_t bit = uint64_t{1} << reg;
        known_ &= ~bit;
        unmentioned_ &= ~bit;
        const bool unread = why == DWUNW_ERR_SLICE_EXHAUSTED || why == DWUNW_ERR_MEMORY_UNREADABLE;
        unread_ = unread ? unread_ | bit : unread_ & ~bit;
        if (unread && why_unread_ == DWUNW_OK)
            why_unread_ = why;
    }
    // For a register that a call may change, at a step that does not mention it.
    void leave_unmentioned(size_t reg) {
        const uint64_t bit = uint64_t{1} << reg;
        const bool was_known = (known_ & bit) != 0;
        forget(reg);
        if (was_known)
            unmentioned_ |= bit;
    }
    // Whether its value is known only from the inner frame.
    bool unmentioned(size_t reg) const { return reg < values_.size() && ((unmentioned_ >> reg) & 1) != 0; }
    // For a register that is not known.
    dwunw_status why_unknown(size_t reg) const {
        return reg < values_.size() && ((unread_ >> reg) & 1) != 0 ? why_unread_ : DWUNW_ERR_REGISTER_UNKNOWN;
    }

  private:
    std::array<uint64_t, dwarf::kTrackedRegisters> values_;
    uint64_t known_ = 0;
    uint64_t unread_ = 0;
    uint64_t unmentioned_ = 0;           // not known
    dwunw_status why_unread_ = DWUNW_OK; // of the first one
};

} // namespace dwunw::unwind
