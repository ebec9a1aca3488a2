// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which symbol an address belongs to, for one module: built once, then a binary search. (libdwfl's own lookup reads the
// whole symbol table each time: 3 ms a frame in node, 6 ms in LLVM.)
#pragma once

#include "base/address.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace dwunw {

// How strongly a symbol's binding speaks for its name, where several symbols name one function.
enum class SymbolBinding : uint8_t { kLocal, kWeak, kGlobal };

struct SymbolRange {
    LinkAddr start;
    uint64_t size = 0;    // 0: a label, as hand-written assembly leaves them
    LinkAddr section_end; // where a label's section ends; its start where that is unknown
    SymbolBinding binding = SymbolBinding::kLocal;
};

class SymbolIndex {
  public:
    SymbolIndex() = default;
    explicit SymbolIndex(const std::vector<SymbolRange> &symbols);

    // The position, in the vector given at construction, of the symbol that `address` belongs to:
    //  - of those whose [start, start + size) holds it, the one that starts last; of equal starts the strongest
    //  binding,
    //    then the smallest size, then the first;
    //  - if none does, the nearest symbol before it, if that is a label in the same section and no symbol of known size
    //    reaches beyond the label.
    std::optional<uint32_t> find(LinkAddr address) const;

  private:
    // From `start` to the next segment's start.
    struct Segment {
        LinkAddr start;
        uint32_t symbol;
    };
    std::vector<Segment> segments_;
};

} // namespace dwunw
