// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What addresses of a process have meant. A layout goes on for as long as no address comes to mean something else: a
// stack of its time can be named at any later time, whatever has been unmapped since. When an address does, as after
// dlclose and dlopen of another file, the process goes on with a new layout.
//
// Not thread-safe.
#pragma once

#include "base/address.h"
#include "process/process.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

struct dwunw_module;

namespace dwunw::bpf {

class Layout {
  public:
    explicit Layout(uint64_t number) : number_(number) {}

    uint64_t number() const { return number_; }
    // Of memory, about.
    size_t bytes() const { return sizeof(*this) + ranges_.capacity() * sizeof(Range); }

    // Takes in what is mapped now, ascending. False, and unchanged, where an address has meant something else.
    bool extend(std::span<const process::Process::CodeMapping> mappings);

    // The module is nullptr for code without a file.
    std::optional<unwind::PlacedModule> find(RunAddr address) const;

  private:
    struct Range {
        RunAddr start;
        RunAddr end;
        unwind::CodeKind kind;
        unwind::PlacedModule place;
    };
    static bool same(const Range &a, const Range &b) {
        return a.kind == b.kind && a.place.module == b.place.module && a.place.bias.value == b.place.bias.value;
    }

    uint64_t number_;
    std::vector<Range> ranges_; // by start; none overlap
};

} // namespace dwunw::bpf
