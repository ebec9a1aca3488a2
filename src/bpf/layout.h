// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The history of a process's addresses, as long as no address gets another meaning:
//
//     0x7f10…  libA.so                      layout 1
//     0x7f20…           plugin1.so          layout 1: no address has two meanings
//     0x7f20…           (unloaded)          layout 1: old stacks through plugin1.so can still be named
//     0x7f20…           plugin2.so          layout 2: 0x7f20… has another meaning
//
// A stack of a layout's time can be named at any later time, even if its modules have been unmapped. When an address
// gets another meaning, as after dlclose and dlopen of another file, the process continues with a new layout.
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
    // Approximate memory.
    size_t bytes() const { return sizeof(*this) + ranges_.capacity() * sizeof(Range); }

    // Adds the current mappings, in ascending order. False, without a change: an address had another meaning.
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
