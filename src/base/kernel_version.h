// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#pragma once

#include <cstdint>

namespace dwunw {

// As the kernel's KERNEL_VERSION, without the last number.
constexpr uint32_t kernel_version(uint32_t major, uint32_t minor) { return major << 16 | minor << 8; }

} // namespace dwunw
