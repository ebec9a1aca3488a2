// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// .gnu_debugdata: an ELF file with the symbols that .dynsym has not, packed with xz. libdwfl would unpack whatever
// comes out of it, and of that file's tables again; so it is unpacked here, within bounds, and never shown to libdwfl.
#pragma once

#include "base/result.h"

#include <elf.h>

#include <cstdint>
#include <span>
#include <vector>

namespace dwunw {

class MiniDebug {
  public:
    // xz's decoder takes the dictionary's size at most, 64 MiB with the strongest preset, and some.
    static constexpr uint64_t kMaxDecoderBytes = uint64_t{80} << 20;

    // DWUNW_ERR_LIMIT: by its own index it would be more than elf::expanded_limit(), or its decoder need more memory.
    // DWUNW_ERR_ELF_MALFORMED: no single xz stream, or not what its index says, or no ELF file within.
    static Result<MiniDebug> unpack(std::span<const uint8_t> packed);

    struct Symbol {
        Elf64_Sym symbol;
        const char *name; // ends within the file; lives as long as this object, wherever that is moved
    };
    const std::vector<Symbol> &symbols() const { return symbols_; }
    size_t bytes() const { return file_.size(); }

  private:
    Status read_symbols();

    std::vector<uint8_t> file_;
    std::vector<Symbol> symbols_;
};

} // namespace dwunw
