// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "arch/arch.h"

#include "arch/selected.h"

namespace dwunw::arch {

const Arch *find_by_machine(uint16_t machine) {
    return machine == selected::kArch.machine ? &selected::kArch : nullptr;
}

const Arch *find_by_id(uint32_t id) { return id == selected::kArch.id ? &selected::kArch : nullptr; }

} // namespace dwunw::arch
