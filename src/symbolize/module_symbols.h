// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The function symbols of one module's ELF image, from the first of these:
//   1. .symtab;
//   2. .symtab of a separate debug file, which elfutils' libdwfl finds by build-id under the caller's own
//      /usr/lib/debug;
//   3. .dynsym, with .gnu_debugdata; without section headers, .dynsym through the program headers. The image is read
//      with pread, never mapped, and libelf never sees it (symbol_image.h). Nothing is fetched.
#pragma once

#include "base/budget.h"
#include "base/byte_source.h"
#include "base/result.h"
#include "symbolize/mini_debug.h"
#include "symbolize/symbol_image.h"
#include "symbolize/symbol_index.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dwunw {

class ModuleSymbols {
  public:
    // Reads the symbols of the image, which is not needed afterwards. `budget` limits what is kept. An image without
    // symbols is not an error. Errors: SymbolImage::make's; DWUNW_ERR_LIMIT (also: .gnu_debugdata would exceed its
    // limit); DWUNW_ERR_OUT_OF_MEMORY.
    static Result<std::unique_ptr<ModuleSymbols>> open(const ByteSource &image, Budget &budget);
    ~ModuleSymbols();

    ModuleSymbols(const ModuleSymbols &) = delete;
    ModuleSymbols &operator=(const ModuleSymbols &) = delete;

    struct Symbol {
        const char *name;     // demangled
        const char *raw_name; // as in the symbol table
        LinkAddr start;
    };
    // The symbol to which `address` belongs, see SymbolIndex; DWUNW_ERR_NOT_FOUND. A symbol of size 0 covers code
    // behind its first byte only if the module's symbols include local functions. Strings live as long as this object.
    Result<Symbol> find(LinkAddr address);

    size_t symbol_count() const { return symbols_.size(); }

  private:
    ModuleSymbols();

    struct Entry {
        const char *raw_name;
        LinkAddr start;
        std::unique_ptr<std::string> name; // null until a lookup needs it
    };
    struct ElfHandles;

    Status read_symbols(Budget &budget);
    std::span<const MiniDebug::Symbol> mini_debug_symbols() const;
    Status unpack_debugdata(Budget &budget);

    SymbolImage image_; // outlives handles_, which points into it
    std::optional<MiniDebug> mini_debug_;
    Budget::Share mini_debug_share_;
    std::unique_ptr<ElfHandles> handles_;
    std::vector<Entry> symbols_;
    SymbolIndex index_;
};

} // namespace dwunw
