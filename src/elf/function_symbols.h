// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The function symbols of an ELF file, by name and by address: .dynsym and .symtab together.
//
// One name can have several symbols. find() takes the symbol that a linker would take: a default version before a
// hidden one, then global before weak before local. If two equally good symbols have different addresses, the name is
// ambiguous and find() fails.
//
// Immutable after read(); thread-safe. The file is not trusted; Image's limits bound sizes. Proved by
// tests/unit/elf_function_symbols_test.
#pragma once

#include "base/address.h"
#include "base/byte_source.h"
#include "base/result.h"
#include "base/section_bytes.h"
#include "elf/image.h"

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace dwunw::elf {

class FunctionSymbols {
  public:
    // Image::read_section's errors. A file without symbols gives an empty set.
    static Result<FunctionSymbols> read(const Image &image, const ByteSource &source);

    struct Function {
        LinkAddr start;
        uint64_t size = 0;
    };
    // By a name without its version. DWUNW_ERR_NOT_FOUND: there is no such function, or the name is ambiguous.
    Result<Function> find(std::string_view name) const;
    // The function that begins there, with the largest size of its symbols; size 0: no symbol begins there.
    Function find(LinkAddr start) const;

    // The addresses of symbols of any kind in executable segments, ascending.
    std::span<const LinkAddr> code_addresses() const { return code_addresses_; }
    // The name of the function whose implementation the resolver (STT_GNU_IFUNC) at this address chooses; empty: no
    // resolver begins there.
    std::string_view resolved_name(LinkAddr resolver) const;

  private:
    struct Symbol {
        std::string_view name; // without a version; in strings_
        LinkAddr start;
        uint64_t size;
        int rank; // of several symbols with one name, find() takes the highest
    };
    Status read_table(const Image &image, const ByteSource &source, const char *table, const char *strings,
                      const char *versions);

    std::vector<SectionBytes> strings_;
    std::vector<Symbol> functions_; // by name
    std::vector<Symbol> resolvers_;
    std::vector<LinkAddr> code_addresses_;
};

} // namespace dwunw::elf
