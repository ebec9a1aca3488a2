// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The names in an ELF file's dynamic section: its own name, and the names of the libraries that it needs (System V
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
    std::vector<std::string> needed; // DT_NEEDED, in the order of the file
    bool whole = true;               // false: some names could not be read
};

// Empty, with `whole` false, if no section header names a dynamic section.
Dynamic read_dynamic(const Image &image, const ByteSource &source);

} // namespace dwunw::elf
