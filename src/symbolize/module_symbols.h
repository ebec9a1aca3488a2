// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The function symbols of one module's ELF image, found by elfutils' libdwfl: .symtab, else that of a separate debug
// file found by build-id under the caller's own /usr/lib/debug, else .dynsym with .gnu_debugdata; sections missing,
// .dynsym through the program headers. The image itself is read with pread or from a copy, never mapped; nothing is
// fetched.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "symbolize/symbol_index.h"

#include <memory>
#include <string>
#include <vector>

namespace dwunw {

class ModuleSymbols {
  public:
    // Reads the symbols of the image. `fd` (−1: none) is the image's file and has to stay open as long as the result;
    // without one, or where the file has no section headers, `image` is copied, up to kMaxCopiedImage bytes.
    // An image without any symbols is not an error. Errors: DWUNW_ERR_NOT_ELF, DWUNW_ERR_ELF_MALFORMED,
    // DWUNW_ERR_LIMIT, DWUNW_ERR_IO, DWUNW_ERR_OUT_OF_MEMORY.
    static Result<std::unique_ptr<ModuleSymbols>> open(int fd, const ByteSource &image);
    ~ModuleSymbols();

    ModuleSymbols(const ModuleSymbols &) = delete;
    ModuleSymbols &operator=(const ModuleSymbols &) = delete;

    struct Symbol {
        const char *name;     // demangled
        const char *raw_name; // as in the symbol table
        LinkAddr start;
    };
    // The symbol that `address` belongs to, see SymbolIndex; DWUNW_ERR_NOT_FOUND. Strings live as long as this object.
    Result<Symbol> find(LinkAddr address);

    size_t symbol_count() const { return symbols_.size(); }

    static constexpr uint64_t kMaxCopiedImage = 64 << 20;

  private:
    ModuleSymbols();

    struct Entry {
        const char *raw_name;
        LinkAddr start;
        std::unique_ptr<std::string> name; // null until asked for
    };
    struct ElfHandles;

    Status read_symbols();

    std::vector<uint8_t> copy_; // the image, where it was copied; outlives handles_, which points into it
    std::unique_ptr<ElfHandles> handles_;
    std::vector<Entry> symbols_;
    SymbolIndex index_;
};

} // namespace dwunw
