// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What libelf and libdwfl are shown of a module: its symbol tables and their strings, its build-id, and where segments
// and sections lie, as an ELF file made in memory.
//
// The libraries load and unpack what a file says, however much that is, and its owner may change it at any time. So
// they never see the file: everything in this one was bounded, read once, and written here. Nothing in it is
// compressed, and of what they look for by name nothing is left.
#pragma once

#include "base/budget.h"
#include "base/byte_source.h"
#include "base/result.h"
#include "elf/image.h"

#include <vector>

namespace dwunw {

struct SymbolImage {
    std::vector<uint8_t> bytes;
    elf::Image image; // what the module's file says
    // .gnu_debugdata as it is in the file; empty where that has .symtab, which says more.
    std::vector<uint8_t> debugdata;
    Budget::Share share; // of all of it

    // Of all symbol and string tables of one image, and of .gnu_debugdata.
    static constexpr uint64_t kMaxTableBytes = uint64_t{512} << 20;
    // An image without usable section headers is copied whole.
    static constexpr uint64_t kMaxCopiedImage = uint64_t{64} << 20;
    // libelf keeps 200 bytes for each. Beyond these, sections have numbers that a symbol cannot hold by itself.
    static constexpr size_t kMaxSections = 0xff00 - 2;

    // elf::Image::parse's errors; DWUNW_ERR_ELF_MALFORMED where it has no PT_LOAD, or a table is compressed;
    // DWUNW_ERR_LIMIT: more than the above, or than `budget` has left; DWUNW_ERR_IO.
    static Result<SymbolImage> make(const ByteSource &source, Budget &budget);
};

} // namespace dwunw
