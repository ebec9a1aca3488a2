// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The function symbols of an ELF file, by name and by address: .dynsym and .symtab together.
//
// One name can have several symbols. find() takes the one that a linker would: a default version before a hidden one,
// then global before weak before local. Two equally good symbols at different addresses are ambiguous: neither is
// taken.
//
// Immutable after read(), thread-safe. The file is untrusted; sizes are bounded by Image's limits.
// Proved by tests/unit/elf_function_symbols_test.
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
    // By a name without its version. DWUNW_ERR_NOT_FOUND: no such function, or an ambiguous name.
    Result<Function> find(std::string_view name) const;
    // The function that begins there, with the largest size a symbol gives it; size 0 where no symbol begins there.
    Function find(LinkAddr start) const;

    // Where symbols of any kind begin in executable segments, ascending.
    std::span<const LinkAddr> code_addresses() const { return code_addresses_; }
    // The name of the function that the resolver (STT_GNU_IFUNC) at this address chooses an implementation for; empty
    // where no resolver begins there.
    std::string_view resolved_name(LinkAddr resolver) const;

  private:
    struct Symbol {
        std::string_view name; // without a version; in strings_
        LinkAddr start;
        uint64_t size;
        int rank; // of several symbols with one name, the one with the highest rank is meant
    };
    Status read_table(const Image &image, const ByteSource &source, const char *table, const char *strings,
                      const char *versions);

    std::vector<SectionBytes> strings_;
    std::vector<Symbol> functions_; // by name
    std::vector<Symbol> resolvers_;
    std::vector<LinkAddr> code_addresses_;
};

} // namespace dwunw::elf
