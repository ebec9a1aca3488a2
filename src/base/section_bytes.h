// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A section's bytes (decompressed) and where the linker placed them.
#pragma once

#include "base/address.h"

#include <vector>

namespace dwunw {

struct SectionBytes {
    std::vector<uint8_t> bytes;
    LinkAddr address;
};

} // namespace dwunw
