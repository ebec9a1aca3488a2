// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "arch/arch.h"

#include "arch/x86_64/arch.h"

#include <array>

namespace dwunw::arch {
namespace {

constexpr std::array<const Arch *, 1> kArchs = {&x86_64::kArch};

} // namespace

const Arch *find_by_machine(uint16_t machine) {
    for (const Arch *arch : kArchs)
        if (arch->machine == machine)
            return arch;
    return nullptr;
}

const Arch *find_by_id(uint32_t id) {
    for (const Arch *arch : kArchs)
        if (arch->id == id)
            return arch;
    return nullptr;
}

} // namespace dwunw::arch
