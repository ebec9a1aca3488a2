// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// An ELF file in memory, made from a module, for libelf and libdwfl:
//
//     module's file                              the image that libdwfl sees
//     headers, .symtab, .strtab, build-id   ──►  the same, bounded, read once, and copied
//     .text, .debug_…, compressed sections       left out
//
// The libraries load and unpack whatever a file says, and the file's owner may change it at any time. So they never see
// the file. The image holds symbol tables, their strings, the build-id, and the addresses of segments and sections.
// Nothing in it is compressed, and sections that the libraries would look for by name are left out.
#pragma once

#include "base/budget.h"
#include "base/byte_source.h"
#include "base/result.h"
#include "elf/image.h"

#include <vector>

namespace dwunw {

struct SymbolImage {
    std::vector<uint8_t> bytes;
    elf::Image image; // the module's own headers
    // .gnu_debugdata, still packed; empty if the file has .symtab, which has more symbols.
    std::vector<uint8_t> debugdata;
    Budget::Share share; // of everything here

    // The limit of all symbol and string tables of one image, and of .gnu_debugdata.
    static constexpr uint64_t kMaxTableBytes = uint64_t{512} << 20;
    // An image without usable section headers is copied whole, up to this size.
    static constexpr uint64_t kMaxCopiedImage = uint64_t{64} << 20;
    // libelf keeps 200 bytes for each section. Above this number, a symbol cannot hold a section's number itself.
    static constexpr size_t kMaxSections = 0xff00 - 2;

    // elf::Image::parse's errors; DWUNW_ERR_ELF_MALFORMED: there is no PT_LOAD, or a table is compressed;
    // DWUNW_ERR_LIMIT: a limit above, or the budget, is exceeded; DWUNW_ERR_IO.
    static Result<SymbolImage> make(const ByteSource &source, Budget &budget);
};

} // namespace dwunw
