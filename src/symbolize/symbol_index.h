// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The symbol of an address, for one module: the index is built once, and a lookup is a binary search. (libdwfl's own
// lookup reads the whole symbol table each time: 3 ms a frame in node, 6 ms in LLVM.)
#pragma once

#include "base/address.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace dwunw {

// If several symbols name one function, the strongest binding gives the name.
enum class SymbolBinding : uint8_t { kLocal, kWeak, kGlobal };

struct SymbolRange {
    LinkAddr start;
    uint64_t size = 0;    // 0: a label, as in hand-written assembly
    LinkAddr section_end; // end of a label's section; the label's own address if that is unknown
    SymbolBinding binding = SymbolBinding::kLocal;
};

class SymbolIndex {
  public:
    SymbolIndex() = default;
    explicit SymbolIndex(const std::vector<SymbolRange> &symbols);

    // The position, in the vector given at construction, of the symbol to which `address` belongs:
    //   - of the symbols whose [start, start + size) holds it, the one with the last start; of equal starts the
    //     strongest binding, then the smallest size, then the first symbol;
    //   - if there is none, the nearest symbol before it, if that is a label in the same section and no symbol of known
    //     size reaches beyond the label.
    std::optional<uint32_t> find(LinkAddr address) const;

  private:
    // From `start` up to the next segment's start.
    struct Segment {
        LinkAddr start;
        uint32_t symbol;
    };
    std::vector<Segment> segments_;
};

} // namespace dwunw
