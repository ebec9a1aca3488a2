// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// .gnu_debugdata: an ELF file with the symbols that .dynsym lacks, packed with xz. libdwfl would unpack it, and the
// tables of the file within, without a limit. So it is unpacked here, within limits, and libdwfl never sees it.
#pragma once

#include "base/result.h"

#include <elf.h>

#include <cstdint>
#include <span>
#include <vector>

namespace dwunw {

class MiniDebug {
  public:
    // xz's decoder takes the size of the dictionary, at most 64 MiB with the strongest preset, and a little more.
    static constexpr uint64_t kMaxDecoderBytes = uint64_t{80} << 20;

    // DWUNW_ERR_LIMIT: by its own index it would unpack to more than elf::expanded_limit(), or its decoder needs more
    // memory. DWUNW_ERR_ELF_MALFORMED: it is not a single xz stream, differs from its index, or has no ELF file within.
    static Result<MiniDebug> unpack(std::span<const uint8_t> packed);

    struct Symbol {
        Elf64_Sym symbol;
        const char *name; // ends within the file; lives as long as this object, also after a move
    };
    const std::vector<Symbol> &symbols() const { return symbols_; }
    size_t bytes() const { return file_.size(); }

  private:
    Status read_symbols();

    std::vector<uint8_t> file_;
    std::vector<Symbol> symbols_;
};

} // namespace dwunw
