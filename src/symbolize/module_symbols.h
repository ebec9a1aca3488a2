// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The function symbols of one module's ELF image: .symtab, else that of a separate debug file, which elfutils' libdwfl
// finds by build-id under the caller's own /usr/lib/debug, else .dynsym with .gnu_debugdata; sections missing, .dynsym
// through the program headers. The image itself is read with pread, never mapped, and never shown to libelf
// (symbol_image.h); nothing is fetched.
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
    // Reads the symbols of the image, which is not needed afterwards. What is kept of it is taken from `budget`.
    // An image without any symbols is not an error. Errors: SymbolImage::make's; DWUNW_ERR_LIMIT, too, where
    // .gnu_debugdata would be more than it may; DWUNW_ERR_OUT_OF_MEMORY.
    static Result<std::unique_ptr<ModuleSymbols>> open(const ByteSource &image, Budget &budget);
    ~ModuleSymbols();

    ModuleSymbols(const ModuleSymbols &) = delete;
    ModuleSymbols &operator=(const ModuleSymbols &) = delete;

    struct Symbol {
        const char *name;     // demangled
        const char *raw_name; // as in the symbol table
        LinkAddr start;
    };
    // The symbol that `address` belongs to, see SymbolIndex; DWUNW_ERR_NOT_FOUND. A symbol of size 0 reaches on only
    // where the module's symbols are local functions', too; elsewhere it names its first byte. Strings live as long as
    // this object.
    Result<Symbol> find(LinkAddr address);

    size_t symbol_count() const { return symbols_.size(); }

  private:
    ModuleSymbols();

    struct Entry {
        const char *raw_name;
        LinkAddr start;
        std::unique_ptr<std::string> name; // null until asked for
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
