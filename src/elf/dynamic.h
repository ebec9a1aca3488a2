// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The names in an ELF file's dynamic section: its own, and those of the libraries that it is loaded with (System V
// gABI, chapter 5, "Dynamic Section").
#pragma once

#include "base/byte_source.h"
#include "elf/image.h"

#include <string>
#include <vector>

namespace dwunw::elf {

inline constexpr size_t kMaxDynamicEntries = 4096;
inline constexpr size_t kMaxLibraryName = 255;

struct Dynamic {
    std::string name;                // DT_SONAME; empty: none
    std::vector<std::string> needed; // DT_NEEDED, in its order
    bool whole = true;               // false: there is more than could be read
};

// Nothing in it, and not whole, where the file has no dynamic section that a section header names.
Dynamic read_dynamic(const Image &image, const ByteSource &source);

} // namespace dwunw::elf
