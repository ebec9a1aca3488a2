// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The moments for which a map that was read is valid.
//
// The kernel counts changes (notifications by the dynamic linker, and exec) and puts the count into each record. The
// linker sends a notification before and after each load and each unload:
//
//     count of changes    8   unload begins   9   unload done   10   load begins   11   load done   12
//     reading of a map           [changes = 8 … changes_after = 9]
//
// Between two notifications the linker only loads or only unloads, so no address gets another module there. But a
// reading takes time: a change between its two counts may have come before or after the reader saw a line. So a reading
// is exact only if both counts are equal. Proved by tests/unit/bpf_map_validity_test.
#pragma once

#include <dwunw/bpf/dwunw_types.h>

#include <cstdint>

namespace dwunw::bpf {

struct PublishedMap {
    uint64_t changes = 0;       // the count before the map was read
    uint64_t changes_after = 0; // the count after it was read
    uint64_t exec_pages = 0;
    uint64_t map_generation = 0; // Process::CodeMappings::generation
    // Between this count and `changes_after`, every address had the meaning that it has in this map.
    uint64_t same_since = 0;

    // `before`: the previous reading, or nullptr. `keeps`: every module of `before` is in this map, too.
    //
    // Two cases could hide that another module was at an address between the two readings:
    //   - A module is in both readings. It went, another one came and went, and it came back: unload, load, unload,
    //     load. The first reading may fall after the first notification, the second one before the last. So at least
    //     six notifications lie between them.
    //   - A module is only in this map. Before it, another one came and went at its address: load, unload, load. By the
    //     same count, at least four notifications lie between the readings.
    // Fewer than DWUNW_BPF_HIDING_CHANGES (four) changes hide neither.
    void follow(const PublishedMap *before, bool keeps) {
        const bool nothing_hidden =
            before != nullptr && keeps && changes_after - before->changes < DWUNW_BPF_HIDING_CHANGES;
        same_since = nothing_hidden ? before->same_since : changes_after;
    }
    // Starts anew, after an address has got another meaning.
    void begin() { same_since = changes_after; }

    // Whether the map is valid for a moment with these counts of changes and pages. `later`: the map was read after
    // that moment.
    bool is_of(uint64_t at_changes, uint64_t at_pages, bool later) const {
        if (at_changes == changes_after)
            return changes == changes_after && (later || at_pages == exec_pages);
        return at_changes >= same_since && at_changes < changes_after;
    }
};

} // namespace dwunw::bpf
