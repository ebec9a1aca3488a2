// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A frame's registers by DWARF number, each with whether its value is known.
#pragma once

#include "dwarf/cfi_program.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace dwunw::unwind {

class Registers {
  public:
    Registers() : values_{} {}
    // `known` has bit n set where values[n] holds a value.
    Registers(std::span<const uint64_t, dwarf::kTrackedRegisters> values, uint64_t known)
        : known_(known & ((uint64_t{1} << dwarf::kTrackedRegisters) - 1)) {
        std::ranges::copy(values, values_.begin());
    }

    bool known(size_t reg) const { return reg < values_.size() && ((known_ >> reg) & 1) != 0; }
    uint64_t operator[](size_t reg) const { return values_[reg]; }
    void set(size_t reg, uint64_t value) {
        values_[reg] = value;
        known_ |= uint64_t{1} << reg;
    }
    void forget(size_t reg) { known_ &= ~(uint64_t{1} << reg); }

  private:
    std::array<uint64_t, dwarf::kTrackedRegisters> values_;
    uint64_t known_ = 0;
};

} // namespace dwunw::unwind
