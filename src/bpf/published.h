// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a map that was read says of the moments around its reading.
//
// A record from the kernel comes with the count of changes of its moment. Between two changes the dynamic linker leaves
// the map alone, but a reading is no moment: it has a count before and one behind it, and whatever lies between those
// may have been before or after the line in question was read. Proved by tests/unit/bpf_published_test.
#pragma once

#include <dwunw/bpf/dwunw_types.h>

#include <cstdint>

namespace dwunw::bpf {

struct Published {
    uint64_t changes = 0;       // before the map was read
    uint64_t changes_after = 0; // and when it had been
    uint64_t exec_pages = 0;
    uint64_t map_generation = 0; // Process::CodeMappings::generation
    // From this count of changes on up to `changes_after`, no address has meant anything but what it means now.
    uint64_t same_since = 0;

    // `before`: what was read last, nullptr: nothing. `keeps`: every module of it is here, too.
    //
    // The dynamic linker says twice that it loads or unloads something: between two readings that both show a module,
    // another one has been in its place only if it spoke up six times; in the place of one that came, four times.
    void follow(const Published *before, bool keeps) {
        const bool nothing_hidden =
            before != nullptr && keeps && changes_after - before->changes < DWUNW_BPF_HIDING_CHANGES;
        same_since = nothing_hidden ? before->same_since : changes_after;
    }
    // Addresses have come to mean something else.
    void begin() { same_since = changes_after; }

    // Whether the map is also that of a moment with so many changes and pages. `later`: it was read after that moment.
    bool is_of(uint64_t at_changes, uint64_t at_pages, bool later) const {
        if (at_changes == changes_after)
            return changes == changes_after && (later || at_pages == exec_pages);
        return at_changes >= same_since && at_changes < changes_after;
    }
};

} // namespace dwunw::bpf
