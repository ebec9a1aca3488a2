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
#include <map>
#include <optional>
#include <span>

struct dwunw_module;

namespace dwunw::bpf {

class Layout {
  public:
    explicit Layout(uint64_t number) : number_(number) {}

    uint64_t number() const { return number_; }
    // Of memory, about.
    size_t bytes() const { return sizeof(*this) + ranges_.size() * (sizeof(*ranges_.begin()) + 4 * sizeof(void *)); }

    // Takes in what is mapped now. False, and unchanged, where an address has meant something else.
    bool extend(std::span<const process::Process::CodeMapping> mappings);

    struct Place {
        const dwunw_module *module = nullptr; // nullptr: code without a file
        LoadBias bias;
    };
    std::optional<Place> find(RunAddr address) const;

  private:
    struct Range {
        RunAddr end;
        unwind::CodeKind kind;
        Place place;
    };
    static bool same(const Range &range, const process::Binding &binding);

    uint64_t number_;
    std::map<RunAddr, Range> ranges_; // by start; none overlap
};

} // namespace dwunw::bpf
